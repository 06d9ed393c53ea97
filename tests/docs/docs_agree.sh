#!/bin/bash
# Compares the documents with what they describe: exit codes with base/status.def, `make` goals with the Makefile,
# folders with the tree, links with files.
# usage: PTC_SOURCE_DIR=... docs_agree.sh
set -uo pipefail
cd "$PTC_SOURCE_DIR" || exit 1
failures=0
fail()
{
    echo "FAIL: $1"
    failures=$((failures + 1))
}

# one line per exit code: "| code | text; text |"
want=$(sed -nE 's/^STATUS\([A-Z_]+, *([0-9]+), *[A-Z]+, *"(.*)"\).*/\1 \2/p' base/status.def | awk '
    { code = $1; sub(/^[0-9]+ /, ""); if (code in text) text[code] = text[code] "; " $0; else { text[code] = $0; order[++n] = code } }
    END { for (i = 1; i <= n; i++) print "| " order[i] " | " text[order[i]] " |" }')
have=$(grep -E '^\| [0-9]+ \|' docs/cli.md)
[ -n "$want" ] || fail "no rows were found in base/status.def"
if [ "$want" != "$have" ]; then
    fail "the exit codes in docs/cli.md are not those of base/status.def:"
    diff <(echo "$want") <(echo "$have")
fi

n_goals=0
for goal in $(grep -ohE '(`|^    )make [a-z-]+' README.md ARCHITECTURE.md docs/*.md | sed -E 's/.*make //' | sort -u); do
    n_goals=$((n_goals + 1))
    grep -qE "^([a-z -]+ )?$goal( [a-z -]+)?:" Makefile || fail "the documents name 'make $goal', which the Makefile lacks"
done
[ $n_goals -gt 1 ] || fail "the goals of make were not found in the documents"

for folder in $(sed -nE 's/^\| (`[a-z]+\/`(, `[a-z]+\/`)*) \|.*/\1/p' ARCHITECTURE.md | tr -d '`,'); do
    [ -d "$folder" ] || fail "ARCHITECTURE.md names $folder, which does not exist"
done
for folder in $(git ls-files 2>/dev/null | sed -nE 's/^([a-z]+)\/.*/\1/p' | sort -u); do
    [ "$folder" = docs ] || grep -q "\`$folder/\`" ARCHITECTURE.md || fail "ARCHITECTURE.md does not name $folder/"
done

for document in README.md ARCHITECTURE.md docs/*.md; do
    for target in $(grep -oE '\]\([^)#]+\)' "$document" | sed -E 's/^\]\(//; s/\)$//' | grep -v '^[a-z]*:'); do
        [ -e "$(dirname "$document")/$target" ] || fail "$document links to $target, which does not exist"
    done
done
[ $failures = 0 ]
