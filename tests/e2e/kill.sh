#!/bin/bash
# kill -9 at 20 random moments of a run that writes a checkpoint after every step: each time there is a good checkpoint,
# or none when none was finished, and in the end the weights are those of a run that was left alone.
. "$(dirname "$0")/lib.sh"
seed=${PTC_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "seed: PTC_TEST_SEED=$seed"
RANDOM=$seed
# too long to end by itself, however fast the machine
model="$e2e/dropout.xml --set=train.epochs=1000000 --set=train.eval_every=0 --set=train.schedule=constant"
n_kills=20
n_moved=0 last=0

# The newest checkpoint is whole, or there is none; nothing was skipped on the way to it.
finds_well() # LOG
{
    local n
    n=$(grep -cE '^(resumed from|no checkpoint in)' "$1")
    if [ "$n" != 1 ] || grep -qiE 'error|warning|damaged|checksum|skip' "$1"; then
        echo "said:"
        cat "$1"
        return 1
    fi
}

kill_once()
{
    local pid code
    # shellcheck disable=SC2086 # the settings are words
    $PTC $model --set=train.checkpoint_every=1 --out=killed --resume >killed.log 2>&1 &
    pid=$!
    sleep "0.$(printf %04d $((RANDOM % 3000 + 50)))"
    kill -9 $pid
    wait $pid 2>/dev/null
    code=$?
    [ $code = 137 ] || { echo "ended with $code before it was killed"; cat killed.log; return 1; }
    # shellcheck disable=SC2086
    $PTC eval $model --out=killed >found.log 2>&1 || [ "$(cat found.log)" = "ptc: error: there is no checkpoint in 'killed'" ] ||
        { cat found.log; return 1; }
    grep -q "^ptc: error: there is no checkpoint" found.log || finds_well found.log
}

ends_well()
{
    # shellcheck disable=SC2086
    $PTC $model --out=killed --resume --max-steps=$((last + 3)) >ended.log 2>&1 && finds_well ended.log &&
        $PTC $model --out=whole --max-steps=$((last + 3)) && same_rows whole killed && same_weights whole killed
}

# shellcheck disable=SC2086
check "kernels compiled" $PTC $model --max-steps=1
for ((i = 1; i <= n_kills; i++)); do
    check "kill $i" kill_once
    step=$(sed -n 's/^resumed .* at step //p' found.log)
    [ "${step:-0}" -ge $last ] || { echo "step $step after step $last"; n_failed=$((n_failed + 1)); }
    [ "${step:-0}" = $last ] || n_moved=$((n_moved + 1))
    last=${step:-0}
done
echo "$n_moved of $n_kills kills left a newer checkpoint than before, the last of step $last"
check "some kills left a newer checkpoint" [ $n_moved -gt 1 ]
check "ends like a run that was left alone" ends_well
finish
