#!/bin/bash
# Ranks that fail, one way or another: the exit code is that of the cause, its message is the last one, nobody is left.
. "$(dirname "$0")/lib.sh"
needs_mpirun

fails() # N ORDERS CODE TEXT...: with these orders for N ranks
{
    local n=$1 have
    export FAKE=$2
    shift 2
    fake -n "$n"
    have=$?
    ended $have "$@" && all_gone_in 100
}

causes()
{
    check "all well" fails 3 "" 0
    check "one fails, the others end well" fails 3 "1:exit:4:not a number" 4 "ptc: error: rank 1: not a number"
    check "an exit code of its own" fails 2 "0:exit:9:" 9 "ptc: rank 0 of 2 ended with exit code 9"
    check "all say the same" fails 3 "*:exit:1:no such file" 1 "ptc: error: no such file"
    check "the first one counts" fails 3 "2:exit:5:out of memory: first;0:sleep:0.5;0:exit:3:later" 5 \
        "ptc: rank 0 of 3 failed too" "ptc: error: rank 2: out of memory: first"
    check "a lost peer is no cause" fails 4 "2:sleep:0.5;2:exit:5:out of memory;0:exit:6:no answer;3:exit:6:no answer" 5 \
        "ptc: ranks 0 and 3 of 4 ended because a rank was lost" "ptc: error: rank 2: out of memory"
    check "only lost peers" fails 3 "1:sleep:0.3;1:exit:6:later;0:exit:6:rank 2 does not answer" 6 \
        "ptc: rank 1 of 3 ended because a rank was lost" "ptc: error: rank 0: rank 2 does not answer"
    check "killed by signal 9" fails 4 "2:kill:9;*:sleep:0.5;*:exit:6:lost" 6 \
        "ptc: ranks 0, 1 and 3 of 4 ended because a rank was lost" "ptc: rank 2 of 4 was killed by signal 9 (SIGKILL)"
}

# Diagnostics, which all ranks find: shown once, also when rank 0 did not come to them
diagnostics()
{
    check "diagnostics" fails 4 "*:diag:model.xml:1:2: error: wrong;*:exit:1:" 1 "model.xml:1:2: error: wrong"
    check "diagnostics of one rank" fails 3 "2:diag:data.xml:3:4: error: not here;2:exit:1:" 1 "data.xml:3:4: error: not here"
    check "diagnostics without rank 0" fails 2 "1:diag:m.xml:1:1: error: no;1:exit:1:;0:sleep:1;0:exit:6:gone" 1 \
        "ptc: rank 0 of 2 ended because a rank was lost" "m.xml:1:1: error: no"
}

# ---- kill -9 from outside: the others, which would go on for a minute, are gone within 5 s
killed_from_outside() # WHICH: rank 2, or mpirun
{
    local pid
    export FAKE="*:sleep:60"
    fake_starts 4 || return
    case $1 in
    rank) pid=$(cat pid-2) ;;
    mpirun) pid=$(pgrep -P $launcher) ;;
    esac
    kill -9 "$pid" && all_gone_in 5000 || return
    fake_ends
    local code=$?
    [ $code = 6 ] || { echo "exit code $code"; return 1; }
    cat err.log
    [ "$1" = mpirun ] || tail -1 err.log | grep -qxF "ptc: rank 2 of 4 was killed by signal 9 (SIGKILL)" || return
    [ "$(wc -l <err.log)" -le 2 ] && no_folder_left
}
ends()
{
    check "a crash" fails 2 "1:kill:6" 6 "ptc: rank 1 of 2 was killed by signal 6 (SIGABRT)"
    check "gone with the process that waits for it" fails 3 "1:sleep:0.5;1:vanish" 6 "ptc: rank 1 of 3 is gone without a word"
    check "one of them does not end" fails 3 "0:exit:3:disk full;1:sleep:60" 3 \
        "ptc: rank 1 of 3 did not end and had to be killed" "ptc: error: rank 0: disk full"
    check "kill -9 of a rank" killed_from_outside rank
    check "kill -9 of mpirun" killed_from_outside mpirun
}
other_ends()
{
    diagnostics
    ends
}
at_once causes other_ends
finish
