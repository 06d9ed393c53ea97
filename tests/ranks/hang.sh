#!/bin/bash
# A rank that does not answer, ends, is killed or stopped, or is not of this job: every rank ends, in time, with a
# non-zero exit code and a message that says which rank it was and what was waited for; no process is left behind.
. "$(dirname "$0")/lib.sh"
plain_kernels
needs_ranks
timeout_s=2

# A run with a fault before step 3, watched from the moment on that step 2 is in its log: all end within 5 s from the
# deadline. CODE TEXT...: its exit code, and what standard error holds, as extended regular expressions.
ends() # FAULT N LAYOUT CODE TEXT...
{
    local fault=$1 n=$2 layout=$3 want=$4 pid code from='' gone='' tries=0 text
    shift 4
    rm -rf out
    # shellcheck disable=SC2086 # words
    PTC_FAULT=$fault:3 $PTC -n "$n" $layout --micro-batches=4 --costs=model --threads=1 --comm-timeout=$timeout_s \
        --out="$work/out" "$tied" >out.log 2>err.log &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        [ -n "$from" ] || ! grep -qs '"train","step":2,' out/metrics.jsonl || from=$(date +%s%3N)
        [ -z "$from" ] || [ -n "$gone" ] || pgrep -f "^$PTC .*--out=$work/out" | grep -qvx $pid || gone=$(date +%s%3N)
        [ $((tries += 1)) -lt 2000 ] || { echo "does not end"; kill -9 $pid; return 1; }
        sleep 0.04
    done
    wait $pid
    code=$?
    cat err.log
    [ -n "$from" ] || { echo "no step 2"; cat out.log; return 1; }
    # the first rank that gave up wrote its dump then: the others have 5 s from there; 3 s are for a busy machine to get
    # there, and as many for mpirun to end when the ranks have
    local end first
    end=$(date +%s%3N)
    first=$(for dump in out/rank-*.json; do date -r "$dump" +%s%3N; done | sort -n | head -1)
    gone=${gone:-$end}
    echo "gave up after $((first - from)) ms, gone $((gone - first)) ms later, the launcher after $((end - gone)) ms"
    [ $((first - from)) -lt $((1000 * (timeout_s + 3))) ] && [ $((gone - first)) -lt 5000 ] &&
        [ $((end - gone)) -lt 4000 ] || return
    [ $code = "$want" ] || { echo "exit code $code, not $want"; return 1; }
    for text in "$@"; do
        grep -qE -- "$text" err.log || { echo "no '$text'"; return 1; }
    done
    nobody_left 1
}

# Every surviving rank wrote down what it was doing.
dumps() # RANK...
{
    local rank
    for rank in "$@"; do
        grep -q '"' "out/rank-$rank.json" || { ls out; return 1; }
    done
}

# Kernels are compiled first: one rank takes longer for its own than another, and they wait for each other.
for layout in "-n 2 --replicas=2" "-n 2 --stages=2" "-n 3 --stages=3"; do
    # shellcheck disable=SC2086 # words
    check "no fault: $layout" train well $layout --micro-batches=4 --max-steps=3 "$tied"
done
waited="waited 2[.][0-9] s for rank"
late()
{
    check "sleeps, of 2 replicas" ends sleep:1 2 --replicas=2 6 "rank 0 .*$waited 1 .*all_reduce bucket [0-9]+ .*step 3"
    check "the other one dumps what it did" dumps 0
    check "sleeps, of 2 stages" ends sleep:0 2 --stages=2 6 "rank 1 .*$waited 0 .*recv.*step 3"
    check "stopped, of 2 stages" ends stop:1 2 --stages=2 6 "rank 0 .*$waited 1 .*step 3" "the process of rank 1 is stopped"
    check "stopped, of 3 stages" ends stop:1 3 --stages=3 6 "$waited 1 .*step 3" "the process of rank 1 is stopped"
}
gone()
{
    check "exits, of 2 replicas" ends exit:1 2 --replicas=2 9 "^ptc: rank 1 of 2 ended with exit code 9$"
    check "exits, of 3 stages" ends exit:2 3 --stages=3 9 "^ptc: rank 2 of 3 ended with exit code 9$" \
        "^ptc: ranks 0 and 1 of 3 ended because a rank was lost$"
    check "killed, of 3 stages" ends kill:0 3 --stages=3 6 "^ptc: rank 0 of 3 was killed by signal 9 .SIGKILL.$" \
        "^ptc: ranks 1 and 2 of 3 ended because a rank was lost$"
    check "the others dump what they did" dumps 1 2
}

# ---- not of this job: found before anything runs
refused() # TEXT COMMAND...: exit code 1, one message
{
    local text=$1
    shift
    fails_with 1 "$@" >out.log 2>err.log || { cat out.log err.log; return 1; }
    cat err.log
    grep -qE -- "$text" err.log && [ "$(grep -c 'error:' err.log)" = 1 ] && nobody_left 1
}
# As mpirun starts them without the launcher: rank 1 gets another file, or other flags.
two_kinds() # TEXT FILE FILE FLAG...
{
    local text=$1 one=$2 two=$3 code
    shift 3
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
        OMPI_MCA_hwloc_base_binding_policy=none timeout 60 mpirun \
        -n 1 $PTC --comm-timeout=$timeout_s --out="$work/kinds" "$one" : \
        -n 1 $PTC --comm-timeout=$timeout_s --out="$work/kinds" "$@" "$two" >out.log 2>err.log
    code=$?
    cat out.log err.log
    [ $code = 1 ] || { echo "exit code $code"; return 1; }
    cat out.log err.log | grep -qE -- "$text" && nobody_left 1 && [ ! -e kinds/metrics.jsonl ]
}
strangers()
{
    local other="rank 1 .host .*. has another model or other settings than rank 0"
    sed 's/init="zeros"/init="ones"/' "$tied" >other.xml
    check "another file" two_kinds "$other" "$tied" "$work/other.xml"
    check "another seed" two_kinds "$other" "$tied" "$tied" --seed=7
    check "another width" two_kinds "$other" "$tied" "$tied" --set=d=32
    check "another learning rate" two_kinds "$other" "$tied" "$tied" --set=train.lr=0.02
    check "another layout" two_kinds "$other" "$tied" "$tied" --stages=2
}
others()
{
    gone
    check "another version" refused "rank 1 .host .*. is ptc [0-9.]+[+]fault, rank 0 .host .*. is ptc [0-9.]+$" \
        env PTC_FAULT=version:1:0 $PTC -n 2 --out="$work/version" "$tied"
    check "a fault that is none" fails_with 2 env PTC_FAULT=yawn:0:1 $PTC -n 2 --costs=model --micro-batches=2 "$tied"
    strangers
}
at_once late others
finish
