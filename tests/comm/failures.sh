#!/bin/bash
# A rank that goes wrong ends all others within seconds, with an exit code and a sentence that says which rank it was.
# Those that are only slow are found by their deadline, 1.5 s here. The files that the ranks leave are read by `ptc
# diagnose`.
. "$(dirname "$0")/lib.sh"
: "${PTC:?}"
limit_s=5
[ -z "${COMM_SANITIZED:-}" ] || limit_s=15

# The victim's pid, as soon as it is known.
victim()
{
    cat "$dir/victim" 2>/dev/null
}

# Runs N ranks; the last one fails as HOW says while the others are in WHERE. Waits until all others have written their
# results.
run() # SHARED N HOW WHERE
{
    local shared=$1 n=$2 how=$3 where=$4 r started=$SECONDS mpirun
    dir=$work/$how-$where-$n-$shared
    mkdir "$dir"
    PTC_COMM_SHARED=$shared ranks "$n" fail "$how" "$where" "$dir" >"$dir/log" 2>&1 &
    mpirun=$!
    for ((r = 0; r < n - 1; r++)); do
        until [ -s "$dir/rank-$r" ]; do
            if [ $((SECONDS - started)) -gt 60 ]; then
                echo "rank $r does not end"
                break
            fi
            sleep 0.05
        done
    done
    [ -z "$(victim)" ] || kill -KILL "$(victim)" 2>/dev/null
    wait $mpirun
    for ((r = 0; r < n - 1; r++)); do
        [ -s "$dir/rank-$r" ] || { cat "$dir/log"; return 1; }
    done
}

# Every rank but the last: exit code CODE, in time, and a sentence with TEXT.
ended() # RANK CODE TEXT...
{
    local rank=$1 codes=$2 code seconds detail text
    shift 2
    read -r code seconds detail <"$dir/rank-$rank"
    [[ " $codes " = *" $code "* ]] || { echo "rank $rank: exit code $code, not $codes: $detail"; return 1; }
    awk "BEGIN { exit !($seconds < $limit_s) }" || { echo "rank $rank: took $seconds s"; return 1; }
    for text in "$@"; do
        [[ $detail = *"$text"* ]] || { echo "rank $rank: '$text' is not in: $detail"; return 1; }
    done
    [ "${NO_FILE:-}" ] || grep -q '"waiting": [0-9]' "$dir/rank-$rank.json" || { echo "rank-$rank.json"; return 1; }
}

# The process is gone: all others name it.
lost() # SHARED N HOW WHERE
{
    run "$@" || return
    local r last=$(($2 - 1))
    for ((r = 0; r < last; r++)); do
        ended $r 6 "rank $r (host $(hostname), pid " "rank $last (host $(hostname), pid $(victim))" "ended" \
            "at matmul %14 loc(model.xml:12:3), step 8, micro-batch 2" || return
    done
    "$PTC" diagnose "$dir" >"$dir/diagnosis" || return
    cat "$dir/diagnosis"
    grep -q "rank $last.*no file" "$dir/diagnosis"
}

# The process is there and does nothing: the rank that waits for it says so, or tells of the one that did.
late() # SHARED N HOW WHERE
{
    run "$@" || return
    local r last=$(($2 - 1)) who
    who="rank $last (host $(hostname), pid $(victim))"
    for ((r = 0; r < last; r++)); do
        ended $r 6 "$who" "matmul %14" || return
    done
    grep -q "waited 1\.[5-9] s for" "$dir"/rank-[0-9] || { cat "$dir"/rank-[0-9]; return 1; }
    [ "$3$1" != stop1 ] || grep -q "the process of rank $last is stopped" "$dir"/rank-[0-9]
}

told() # SHARED N HOW WHERE
{
    run "$@" || return
    local r last=$(($2 - 1))
    for ((r = 0; r < last; r++)); do
        ended $r 6 "the first failure: rank $last (host $(hostname), pid $(victim)): the loss is not a number" || return
        awk '{ exit !($2 < 1.4) }' "$dir/rank-$r" || { cat "$dir/rank-$r"; return 1; }
    done
    grep -q '"reason": "the loss is not a number"' "$dir/rank-$last.json" &&
        grep -q '"status": null' "$dir/rank-$last.json"
}

# The ranks run different programs.
misled() # SHARED N HOW WHERE
{
    run "$@" || return
    local r last=$(($2 - 1))
    if [ "$4" = recv ]; then
        ended 0 3 "got 50 bytes instead of 1048576 from rank $last (host $(hostname), pid " "recv tag 12" || return
        for ((r = 1; r <= last; r++)); do
            ended $r 6 "the first failure: rank 0 (host $(hostname), pid " "got 50 bytes" || return
        done
        "$PTC" diagnose "$dir" | tee "$dir/diagnosis"
        grep -q "rank 0 receives 1048576 bytes from rank $last with tag 12 (number 1), which sent 50" "$dir/diagnosis"
    else
        for ((r = 0; r <= last; r++)); do
            ended $r "3 6" "bytes instead of" "different programs" || return
        done
        "$PTC" diagnose "$dir" | tee "$dir/diagnosis"
        grep -q "all_reduce.*2399996 bytes" "$dir/diagnosis"
    fi
}

# Leaving does not wait for one that will never come.
left() # SHARED N HOW WHERE
{
    run "$@" && NO_FILE=1 ended 0 6
}

for shared in 1 0; do
    for where in recv all-reduce barrier; do
        check "killed in $where, shared $shared" lost $shared 3 kill $where
    done
    check "ends without a word in recv, shared $shared" lost $shared 4 exit recv
    check "ends without a word in send, shared $shared" lost $shared 2 exit send
    check "killed at the end, shared $shared" left $shared 3 kill destroy
    check "fails elsewhere in recv, shared $shared" told $shared 4 dump recv
    check "fails elsewhere in all-reduce, shared $shared" told $shared 3 dump all-reduce
    check "sends what nobody wants, shared $shared" misled $shared 3 mislead recv
    check "sums another size, shared $shared" misled $shared 3 mislead all-reduce
done
# The victim's neighbour sees that its process is gone, and tells those on the other host.
check "killed in recv on another host" lost 2 4 kill recv
check "killed in all-reduce on another host" lost 2 4 kill all-reduce
check "fails elsewhere on another host" told 2 4 dump recv

# These wait for their deadlines; beside others, which compute, they might not keep them.
all_late() # SHARED
{
    check "stopped in recv, shared $1" late $1 3 stop recv
    check "stopped in all-reduce, shared $1" late $1 3 stop all-reduce
    check "sleeps in barrier, shared $1" late $1 2 sleep barrier
    check "sleeps in send, shared $1" late $1 2 sleep send
}
in_memory() { all_late 1; }
by_messages() { all_late 0; }
at_once in_memory by_messages
finish
