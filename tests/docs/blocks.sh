#!/bin/bash
# Blocks in the documents that say where they are from are compared with it:
#   <!-- file: PATH -->              the block is the file
#   <!-- output of: ptc ... -->      the block's lines stand together in what the command prints
# usage: PTC_SOURCE_DIR=... PTC_BINARY_DIR=... blocks.sh
set -uo pipefail
cd "$PTC_SOURCE_DIR" || exit 1
PATH="$PTC_BINARY_DIR/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n_blocks=0 failures=0

# the lines of the indented block after line $2 of document $1, without the indentation
block()
{
    tail -n "+$(($2 + 1))" "$1" | awk '/^    / { print substr($0, 5); next } /^$/ { print; next } { exit }' |
        sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
}

# is file $1 a run of lines of file $2?
stands_in()
{
    awk 'NR == FNR { want[++n] = $0; next } { have[++m] = $0 }
         END { for (i = 0; i + n <= m; i++) { for (k = 1; k <= n && want[k] == have[i + k]; k++); if (k > n) exit 0 } exit 1 }' "$1" "$2"
}

for document in README.md ARCHITECTURE.md docs/*.md; do
    while IFS=: read -r line marker; do
        n_blocks=$((n_blocks + 1))
        source=$(sed -E 's/<!-- (file|output of): (.*) -->/\2/' <<<"$marker")
        block "$document" "$line" >"$work/want"
        case $marker in
        *"<!-- file:"*) cp "$source" "$work/have" ;;
        *) bash -c "$source" >"$work/have" 2>"$work/err" || { echo "FAIL: $document:$line: '$source' failed"; cat "$work/err"; } ;;
        esac
        if [ ! -s "$work/want" ] || ! stands_in "$work/want" "$work/have"; then
            failures=$((failures + 1))
            echo "FAIL: $document:$line: the block differs from '$source'"
            diff "$work/want" "$work/have" | head -20
        fi
    done < <(grep -nE '^<!-- (file|output of): ' "$document")
done
echo "$n_blocks blocks compared"
[ "$n_blocks" -gt 5 ] && [ "$failures" = 0 ]
