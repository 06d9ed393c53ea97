# What the end-to-end tests share; sourced with PTC, COMPARE and PTC_SOURCE_DIR set.
#   work      a scratch folder, the current one, removed at the end
#   check, check_if_full, at_once, skip, finish: tests/harness/check.sh
set -uo pipefail
: "${PTC:?}" "${COMPARE:?}" "${PTC_SOURCE_DIR:?}"
fixtures=$PTC_SOURCE_DIR/tests/fixtures
e2e=$PTC_SOURCE_DIR/tests/e2e
fashion=/usr/share/datasets/fashion-mnist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
. "$PTC_SOURCE_DIR/tests/harness/check.sh"

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

# Makes the array of the same name: flags for the first samples of Fashion-MNIST, of which every run would inflate all.
first_samples() # N-TRAIN N-TEST
{
    local split n name file head item
    first_samples=()
    for split in "train train $1" "test t10k $2"; do
        read -r split name n <<<"$split"
        for file in images-idx3:8:784 labels-idx1:0:1; do
            IFS=: read -r file head item <<<"$file"
            {
                printf '\0\0\x8%b\0\0%b' "\\x${file: -1}" "$(printf '\\x%02x' $((n / 256)) $((n % 256)))"
                gzip -dc "$fashion/$name-$file-ubyte.gz" 2>/dev/null | tail -c +9 | head -c $((head + n * item))
            } >"$work/$split-$file"
            first_samples+=("--set=data.${file%-*}.$split=$work/$split-$file")
        done
    done
}
