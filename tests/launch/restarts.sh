#!/bin/bash
# --max-restarts: goes on with the ranks that are left, from the last checkpoint, when ranks were lost and only then.
. "$(dirname "$0")/lib.sh"
needs_mpirun

restarts() # FLAGS ORDERS ORDERS_WHEN_RESUMED CODE TEXT...
{
    local flags=$1 have
    export FAKE=$2 FAKE_RESUMED=$3
    shift 3
    # shellcheck disable=SC2086 # words
    fake $flags
    have=$?
    ended $have "$@"
}
starts() # LINE...: ranks.log, sorted
{
    sort ranks.log >sorted.log
    printf '%s\n' "$@" | diff - sorted.log
}
killed="ptc: rank 2 of 4 was killed by signal 9 (SIGKILL)"

with_three()
{
    restarts "-n 4 --out=o --max-restarts=2" "2:kill:9" "" 0 "$killed" \
        "ptc: rank 2 was lost; going on with 3 ranks from the last checkpoint (restart 1 of 2)" &&
        starts "rank 0 of 3: --out=o --resume $model" "rank 0 of 4: --out=o $model" \
            "rank 1 of 3: --out=o --resume $model" "rank 1 of 4: --out=o $model" \
            "rank 2 of 3: --out=o --resume $model" "rank 2 of 4: --out=o $model" "rank 3 of 4: --out=o $model"
}
to_one() # which runs without mpirun
{
    restarts "-n 2 --max-restarts=1 --out=o" "1:kill:9" "" 0 "ptc: rank 1 of 2 was killed by signal 9 (SIGKILL)" \
        "ptc: rank 1 was lost; going on with 1 rank from the last checkpoint (restart 1 of 1)" &&
        starts "rank 0 of 1: --out=o --resume $model" "rank 0 of 2: --out=o $model" "rank 1 of 2: --out=o $model"
}
resumed_already() # --resume is given once
{
    restarts "-n 2 --max-restarts=1 --out=o --resume" "" "1:kill:9" 0 \
        "ptc: rank 1 of 2 was killed by signal 9 (SIGKILL)" \
        "ptc: rank 1 was lost; going on with 1 rank from the last checkpoint (restart 1 of 1)" &&
        starts "rank 0 of 1: --out=o --resume $model" "rank 0 of 2: --out=o --resume $model" \
            "rank 1 of 2: --out=o --resume $model"
}
exhausted()
{
    restarts "-n 4 --out=o --max-restarts=1" "2:kill:9" "0:exit:6:lost;1:kill:9" 6 "$killed" \
        "ptc: rank 2 was lost; going on with 3 ranks from the last checkpoint (restart 1 of 1)" \
        "ptc: rank 0 of 3 ended because a rank was lost" "ptc: rank 1 of 3 was killed by signal 9 (SIGKILL)"
}
two_lost()
{
    restarts "-n 4 --out=o --max-restarts=1" "1:kill:9;2:sleep:0.5;2:kill:6;0:sleep:60" "" 0 \
        "ptc: rank 0 of 4 did not end and had to be killed" "ptc: rank 2 of 4 were lost too" \
        "ptc: rank 1 of 4 was killed by signal 9 (SIGKILL)" \
        "ptc: ranks 1 and 2 were lost; going on with 2 ranks from the last checkpoint (restart 1 of 1)"
}
hangs() # it does not answer, and is killed
{
    restarts "-n 3 --out=o --max-restarts=1" "0:exit:6:rank 1 does not answer;2:sleep:0.5;2:exit:6:no;1:sleep:60" "" 0 \
        "ptc: rank 1 of 3 did not end and had to be killed" "ptc: rank 2 of 3 ended because a rank was lost" \
        "ptc: error: rank 0: rank 1 does not answer" \
        "ptc: a rank did not answer; going on with 2 ranks from the last checkpoint (restart 1 of 1)"
}
layout() # was made for more ranks
{
    restarts "-n 4 --out=o --max-restarts=1 --stages 2 --replicas=2" "2:kill:9" "" 0 "$killed" \
        "ptc: rank 2 was lost; going on with 3 ranks from the last checkpoint (restart 1 of 1)" \
        "ptc: note: --stages=2 was for 4 ranks and is left out" "ptc: note: --replicas=2 was for 4 ranks and is left out" &&
        grep -qxF "rank 0 of 3: --out=o --resume $model" ranks.log
}

goes_on()
{
    check "with three of four" with_three
    check "down to one" to_one
    check "no second --resume" resumed_already
    check "two are lost" two_lost
    check "one hangs" hangs
    if $PTC run --help | grep -q -- --stages; then
        check "a layout for more ranks" layout
    else
        skip "ptc has no --stages"
    fi
}
does_not()
{
    check "none are left" exhausted
    check "without --out" restarts "-n 4 --max-restarts=1" "2:kill:9" "" 6 "$killed"
    check "without --max-restarts" restarts "-n 4 --out=o" "2:kill:9" "" 6 "$killed"
    check "not for bad input" restarts "-n 2 --out=o --max-restarts=1" "*:exit:1:wrong" "" 1 "ptc: error: wrong"
    check "not for numbers that are not finite" restarts "-n 2 --out=o --max-restarts=1" \
        "0:exit:4:not finite;1:sleep:0.3;1:exit:6:lost" "" 4 \
        "ptc: rank 1 of 2 ended because a rank was lost" "ptc: error: rank 0: not finite"
}
at_once goes_on does_not
finish
