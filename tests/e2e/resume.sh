#!/bin/bash
# A run that stops at any step and goes on with --resume ends like one that never stopped, to the byte.
. "$(dirname "$0")/lib.sh"
model=$e2e/dropout.xml
n_steps=12 epoch_steps=3

# The evaluation at the end of the first part is in its log unless an epoch ends there.
same_curves() # OUT STOP...
{
    local out=$1 pattern='^$' stop
    shift
    for stop in "$@"; do
        [ $((stop % epoch_steps)) = 0 ] || pattern="$pattern|\"eval\",\"step\":$stop,"
    done
    diff <(rows whole/metrics.jsonl) <(rows "$out/metrics.jsonl" | grep -vE "$pattern")
}

stop_at() # STEP...
{
    local resume='' stop
    rm -rf parts
    for stop in "$@" $n_steps; do
        # shellcheck disable=SC2086 # one word or none
        $PTC "$model" --out=parts --max-steps="$stop" $resume || return
        resume=--resume
    done
    same_curves parts "$@" && same_weights whole parts
}

check "uninterrupted" $PTC "$model" --out=whole
for ((step = 1; step < n_steps; step++)); do
    check "stopped at step $step" stop_at $step
done
check "stopped at every step" stop_at $(seq 1 $((n_steps - 1)))

# Resuming what is finished changes nothing; from an older checkpoint it repeats the steps after it.
finished()
{
    cp -r whole again && $PTC "$model" --out=again --resume && same_rows whole again train && same_weights whole again
}
older()
{
    rm -rf older
    $PTC "$model" --out=older --set=train.checkpoint_every=1 || return
    rm -rf older/checkpoints/step-00000012
    $PTC "$model" --out=older --resume | tee resumed.log && grep -q 'step-00000011.* at step 11' resumed.log &&
        same_curves older && same_weights whole older
}
# The interpreter counts in f64 and checkpoints are f32: it goes on from rounded weights.
interp()
{
    $PTC "$model" --device=interp --out=interp-whole && $PTC "$model" --device=interp --out=interp --max-steps=7 &&
        $PTC "$model" --device=interp --out=interp --resume &&
        $COMPARE curves interp-whole/metrics.jsonl interp/metrics.jsonl 1e-6
}
check "resumed when finished" finished
check "resumed from an older checkpoint" older
check "on the interpreter" interp

# What does not fit is refused and left alone.
other_seed() { fails_with 1 $PTC "$model" --out=whole --resume --seed=2; }
other_size() { fails_with 1 $PTC "$model" --out=whole --resume --set=d=32; }
used_folder() { fails_with 1 $PTC "$model" --out=whole; }
check "another seed" other_seed
check "another size" other_size
check "a new run in a used folder" used_folder
check "they changed nothing" same_weights whole again

# The comparison can fail: another seed gives other weights and other rows.
another()
{
    $PTC "$model" --out=another --seed=2 && fails_with 1 same_weights whole another &&
        fails_with 1 same_rows whole another
}
check "another seed is seen" another
finish
