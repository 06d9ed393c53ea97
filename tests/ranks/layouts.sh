#!/bin/bash
# A checkpoint has no layout: written on any stages and replicas, a run goes on with it on any others, and ends like one
# that never stopped, to the bit. A signal to a run of several ranks leaves such a checkpoint.
. "$(dirname "$0")/lib.sh"
plain_kernels
needs_ranks
model=("--deterministic" "--micro-batches=5" "$tied")

go_on() # OUT STEP FLAG...: until that step
{
    local out=$1 step=$2 resume=--resume
    shift 2
    [ -d "$out" ] || resume=
    # shellcheck disable=SC2086 # one word or none
    $PTC --threads=1 --costs=model --comm-timeout=60 --out="$out" --max-steps="$step" $resume "$@" "${model[@]}"
}

# Rows of training, and all but the evaluations where a part stopped; the tensors.
ends_like() # OUT OUT
{
    same_rows "$1" "$2" train && diff <(rows "$1/metrics.jsonl" eval | tail -1) <(rows "$2/metrics.jsonl" eval | tail -1) &&
        same_weights "$1" "$2"
}

check "one rank, never stopped" train whole "${model[@]}"
check "2 stages" go_on parts 3 -n 2 --stages=2 --schedule=zb-h1
check "then 2 replicas" go_on parts 7 -n 2 --replicas=2
check "then one rank" go_on parts 10
check "then 2 replicas again" go_on parts 11 -n 2 --replicas=2
check "then 3 replicas" go_on parts 12 -n 3 --replicas=3
check "then 3 stages" go_on parts 14 -n 3 --stages=3 --schedule=gpipe
check "then 2 stages x 2 replicas" go_on parts 17 -n 4 --stages=2 --replicas=2
check "then what the planner likes" go_on parts 1000 -n 2
check "ends like the one that never stopped" ends_like whole parts
check "2 stages x 2 replicas, never stopped" train grid -n 4 --stages=2 --replicas=2 "${model[@]}"
check "writes the same file" same_run whole grid

# ---- evaluation
evaluates() # FLAG...: prints the line with the loss
{
    $PTC eval --threads=1 --costs=model --out=parts "$@" "$tied" >eval.log 2>&1 || { cat eval.log >&2; return 1; }
    grep -oE 'test loss [0-9.]+ .*samples' eval.log
}
evaluates_alike() # FLAG...
{
    local one many
    one=$(evaluates) && many=$(evaluates "$@") && [ "$one" = "$many" ]
}
check "eval on 2 stages" evaluates_alike -n 2 --stages=2 --micro-batches=4
check "eval on 2 replicas" evaluates_alike -n 2 --replicas=2 --micro-batches=4
check "eval on 3 ranks" evaluates_alike -n 3

# ---- signals
stopped() # SIGNAL FLAG...
{
    local signal=$1 pid code step n=0 long="--set=train.epochs=1000000 --set=train.schedule=constant"
    shift
    rm -rf stopped straight
    # shellcheck disable=SC2086
    $PTC --threads=1 --costs=model --out="$work/stopped" $long "$@" "${model[@]}" >stopped.log 2>&1 &
    pid=$!
    until [ "$(grep -c '"train"' stopped/metrics.jsonl 2>/dev/null)" -ge 5 ] 2>/dev/null || [ $((n += 1)) -gt 1200 ]; do
        kill -0 $pid 2>/dev/null || { cat stopped.log; return 1; }
        sleep 0.05
    done
    kill -"$signal" $pid
    wait $pid
    code=$?
    cat stopped.log
    [ $code = 75 ] || { echo "exit code $code"; return 1; }
    step=$(sed -n 's/.*stopped by a signal at step \([0-9]*\); the checkpoint is written.*/\1/p' stopped.log | tail -1)
    [ -d "stopped/checkpoints/step-$(printf %08d "${step:-0}")" ] || { ls stopped/checkpoints; return 1; }
    # shellcheck disable=SC2086
    go_on stopped $((step + 5)) $long && go_on straight $((step + 5)) $long && same_rows straight stopped train &&
        same_weights straight stopped && nobody_left 1
}
check "SIGTERM to 2 stages, then one rank" stopped TERM -n 2 --stages=2
check "SIGINT to 2 replicas, then one rank" stopped INT -n 2 --replicas=2

# ---- what does not fit is refused and left alone
refused() # FLAG...
{
    fails_with 1 go_on parts 1000 "$@" && same_weights whole parts
}
check "another seed" refused -n 2 --stages=2 --seed=2
check "another size" refused -n 2 --stages=2 --set=d=32
check "a new run in a used folder" fails_with 1 $PTC -n 2 --stages=2 --out=parts "${model[@]}"
check "they changed nothing" same_weights whole parts
finish
