#!/bin/bash
# Signals to the launcher reach every rank, and mpirun leaves them the time to write a checkpoint.
. "$(dirname "$0")/lib.sh"
needs_mpirun

code_is() # WANT
{
    local code
    fake_ends
    code=$?
    [ $code = "$1" ] && no_folder_left && return
    echo "exit code $code, not $1"
    cat err.log
    return 1
}

saves() # SIGNAL: a checkpoint that takes 1.5 s
{
    export FAKE="*:save"
    fake_starts 4 && kill -"$1" $launcher && code_is 75 || return
    [ "$(cat saved-0 saved-1 saved-2 saved-3 | tr -d '\n')" = 1111 ] && all_gone_in 0 &&
        [ "$(cat err.log)" = "ptc: error: stopped by a signal" ]
}
one_signal()
{
    local name
    for name in TERM INT USR1; do
        check "75: SIG$name" saves $name
    done
}

twice() # the second signal ends what the first did not, and the launcher dies by it
{
    export FAKE="*:deaf:1;*:sleep:60"
    fake_starts 3 && kill -TERM $launcher && sleep 0.5 && kill -TERM $launcher && code_is 143 && all_gone_in 0
}
three_times()
{
    export FAKE="*:deaf:9;*:sleep:60"
    fake_starts 3 && for _ in 1 2 3; do kill -TERM $launcher && sleep 0.3; done && code_is 143 && all_gone_in 0
}
lost_meanwhile() # a rank that is killed while the others write a checkpoint was lost
{
    export FAKE="1:kill:9;0:sleep:1;2:sleep:1"
    fake_starts 3 && kill -TERM $launcher && code_is 6 &&
        grep -qx 'ptc: rank 1 of 3 was killed by signal 9 (SIGKILL)' err.log
}
no_restart() # who wants the job to stop does not want it to go on with fewer
{
    export FAKE="*:deaf:1;1:kill:9;*:exit:6:lost" FAKE_RESUMED=""
    fake_starts 3 --out=out --max-restarts=3 && kill -TERM $launcher && code_is 6 && ! grep -q resume ranks.log
}
launcher_killed() # nobody is left behind
{
    export FAKE="*:sleep:60"
    fake_starts 3 && kill -9 $launcher && all_gone_in 5000 || return
    wait $launcher
    sleep 0.7
    no_folder_left
}
others()
{
    check "a second signal" twice
    check "a third signal" three_times
    check "lost while stopping" lost_meanwhile
    check "no restart when stopped" no_restart
    check "kill -9 of the launcher" launcher_killed
}
at_once one_signal others
finish
