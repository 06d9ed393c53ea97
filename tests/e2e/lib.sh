# What the end-to-end tests share; sourced with PTC, COMPARE and PTC_SOURCE_DIR set.
#   work      a scratch folder, the current one, removed at the end
#   check NAME COMMAND...   one test case: counted, its output shown when it fails
#   finish    prints the counts as the runner wants them; the exit code is the verdict
set -uo pipefail
: "${PTC:?}" "${COMPARE:?}" "${PTC_SOURCE_DIR:?}"
fixtures=$PTC_SOURCE_DIR/tests/fixtures
e2e=$PTC_SOURCE_DIR/tests/e2e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
n_passed=0 n_failed=0 n_skipped=0

check()
{
    local name=$1 started=$SECONDS
    shift
    if "$@" >check.log 2>&1; then
        n_passed=$((n_passed + 1))
        [ -z "${SHOW:-}" ] || sed "s|^|$name: |" check.log
    else
        n_failed=$((n_failed + 1))
        echo "[  FAILED  ] $name"
        tail -40 check.log
    fi
    [ $((SECONDS - started)) -lt 10 ] || echo "$name took $((SECONDS - started)) s"
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

# Rows of metrics.jsonl that a run repeats exactly: all but what is timed, and events.
# usage: rows METRICS [SPLIT]
rows()
{
    grep "\"split\":\"${2:-}" "$1" | grep -v '"split":"event"' |
        sed -E 's/,"(samples_per_s|data_ms|seconds|bubble)":[^,}]*//g'
}

last_checkpoint() # OUT
{
    echo "$1/checkpoints/$(tr -d '\n' <"$1/checkpoints/latest")"
}

# The tensors of the newest checkpoints of two runs, to the byte.
same_weights() # OUT OUT
{
    local a b
    a=$(last_checkpoint "$1") b=$(last_checkpoint "$2")
    [ "${a##*/}" = "${b##*/}" ] || { echo "$a and $b are not of the same step"; return 1; }
    cmp "$a/model.safetensors" "$b/model.safetensors" && cmp "$a/optimizer.safetensors" "$b/optimizer.safetensors"
}

same_rows() # OUT OUT [SPLIT]
{
    diff <(rows "$1/metrics.jsonl" "${3:-}") <(rows "$2/metrics.jsonl" "${3:-}")
}

fails_with() # CODE COMMAND...
{
    local want=$1 have
    shift
    "$@"
    have=$?
    [ $have = "$want" ] || { echo "exit code $have, not $want: $*"; return 1; }
}
