# Counts the cases of a test that is a script; sourced with the scratch folder in $work.
#   check NAME COMMAND...   one test case: counted, its output shown when it fails
#   check_if_full NAME COMMAND...   the same; a skip where PTC_TEST_BREADTH is `thin` (tests/CMakeLists.txt)
#   at_once FUNCTION...     functions with checks, at the same time: for those that wait more than they compute
#   skip REASON
#   finish                  prints the counts as the runner wants them; the exit code is the verdict
n_passed=0 n_failed=0 n_skipped=0

check()
{
    local name=$1 started=$SECONDS
    shift
    if "$@" >"$work/check.log" 2>&1; then
        n_passed=$((n_passed + 1))
        [ -z "${SHOW:-}" ] || sed "s|^|$name: |" "$work/check.log"
    else
        n_failed=$((n_failed + 1))
        echo "[  FAILED  ] $name"
        tail -40 "$work/check.log"
    fi
    [ $((SECONDS - started)) -lt 10 ] || echo "$name took $((SECONDS - started)) s"
}

check_if_full()
{
    if [ "${PTC_TEST_BREADTH:-full}" = full ]; then
        check "$@"
    else
        skip "left to the builds without sanitizers"
    fi
}

# Each in a folder of its own; their output comes in their order.
at_once()
{
    local f n
    for f in "$@"; do
        mkdir "$work/$f"
        (
            work=$work/$f n_passed=0 n_failed=0 n_skipped=0
            cd "$work" && export TMPDIR=$work && "$f"
            echo "$n_passed $n_failed $n_skipped" >"$work/counts"
        ) >"$work/$f.log" 2>&1 &
    done
    wait
    for f in "$@"; do
        cat "$work/$f.log"
        read -ra n <"$work/$f/counts" || n=(0 1 0)
        n_passed=$((n_passed + n[0])) n_failed=$((n_failed + n[1])) n_skipped=$((n_skipped + n[2]))
    done
}

skip() # REASON
{
    n_skipped=$((n_skipped + 1))
    echo "SKIP: $1"
}

finish()
{
    [ $n_passed = 0 ] || echo "[  PASSED  ] $n_passed test(s)."
    [ $n_skipped = 0 ] || echo "[  SKIPPED ] $n_skipped test(s)."
    [ $n_failed = 0 ] || echo "[  FAILED  ] $n_failed test(s)."
    [ $n_failed = 0 ] && [ $((n_passed + n_skipped)) -gt 0 ]
    exit
}
