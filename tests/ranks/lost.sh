#!/bin/bash
# kill -9 of a rank: the others are gone within 5 s, with a message that names it; with --max-restarts the ranks that are
# left go on from the last checkpoint, and the run ends like one that nobody disturbed, to the bit.
. "$(dirname "$0")/lib.sh"
plain_kernels
needs_ranks
flags="--deterministic --micro-batches=4 --threads=1 --costs=model --comm-timeout=60"

# The processes of ranks, from the launcher's run folder.
pid_of() # RANK
{
    cut -d' ' -f1 "$TMPDIR"/ptc-ranks-*/"rank-$1.pid" 2>/dev/null | head -1
}

# Kills rank R of N in a run too long to end by itself, when it has done some steps.
killed() # N R LAYOUT
{
    local n=$1 rank=$2 layout=$3 pid code from tries=0
    rm -rf out
    # shellcheck disable=SC2086 # words
    $PTC -n "$n" $layout $flags --set=train.epochs=1000000 --out="$work/out" "$tied" >out.log 2>err.log &
    pid=$!
    until grep -qs '"train","step":5,' out/metrics.jsonl || [ $((tries += 1)) -gt 1200 ]; do
        kill -0 $pid 2>/dev/null || { cat out.log err.log; return 1; }
        sleep 0.05
    done
    kill -9 "$(pid_of "$rank")" || { cat out.log err.log; return 1; }
    from=$(date +%s%3N)
    wait $pid
    code=$?
    cat err.log
    echo "took $(($(date +%s%3N) - from)) ms"
    [ $(($(date +%s%3N) - from)) -lt 5000 ] && [ $code = 6 ] && nobody_left 1 &&
        [ "$(tail -1 err.log)" = "ptc: rank $rank of $n was killed by signal 9 (SIGKILL)" ]
}
check "kill -9 of one of 2 replicas" killed 2 1 --replicas=2
check "kill -9 of one of 2 stages" killed 2 0 --stages=2
check "kill -9 of one of 3 stages" killed 3 1 --stages=3
check "kill -9 of one of 2 stages x 2 replicas" killed 4 3 "--stages=2 --replicas=2"

# ---- with restarts. The fault is of one rank at one step: rank R of the new start is alive, if there is one, since the
# step is behind it or another rank has the number.
goes_on() # N R LAYOUT STEP TEXT...: killed before STEP, checkpoints every 4 steps
{
    local n=$1 rank=$2 layout=$3 step=$4 text
    shift 4
    rm -rf restarted
    # shellcheck disable=SC2086
    PTC_FAULT=kill:$rank:$step $PTC -n "$n" $layout $flags --max-restarts=1 --set=train.checkpoint_every=4 \
        --out=restarted "$tied" >out.log 2>err.log || { cat out.log err.log; return 1; }
    cat out.log err.log
    for text in "$@"; do
        grep -qF -- "$text" err.log || { echo "no '$text'"; return 1; }
    done
    grep -qE "resumed from '.*step-0000000[48]' at step [48]" out.log && same_run whole restarted && nobody_left 1
}
# shellcheck disable=SC2086
check "a run that nobody disturbs" $PTC $flags --set=train.checkpoint_every=4 --out=whole "$tied"
check "2 ranks, then one" goes_on 2 1 --replicas=2 7 "ptc: rank 1 of 2 was killed by signal 9 (SIGKILL)" \
    "ptc: rank 1 was lost; going on with 1 rank from the last checkpoint (restart 1 of 1)"
check "3 ranks, then two" goes_on 3 2 --stages=3 6 "ptc: rank 2 of 3 was killed by signal 9 (SIGKILL)" \
    "ptc: rank 2 was lost; going on with 2 ranks from the last checkpoint (restart 1 of 1)" \
    "ptc: note: --stages=3 was for 3 ranks and is left out"
check "4 ranks, then three" goes_on 4 3 "--stages=2 --replicas=2" 10 \
    "ptc: rank 3 was lost; going on with 3 ranks from the last checkpoint (restart 1 of 1)"

# Without a restart the checkpoint of step 4 is there, and --resume does by hand what --max-restarts does.
by_hand()
{
    rm -rf restarted
    # shellcheck disable=SC2086
    PTC_FAULT=kill:0:7 fails_with 6 $PTC -n 2 --stages=2 $flags --set=train.checkpoint_every=4 --out=restarted "$tied" &&
        $PTC -n 2 --replicas=2 $flags --set=train.checkpoint_every=4 --out=restarted --resume "$tied" &&
        same_run whole restarted
}
check "resumed by hand" by_hand
finish
