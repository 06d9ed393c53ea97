#!/bin/bash
# Runs what the documents show: every `ptc ...` command, each model in an XML block, and looks for the files they name.
# `model.xml` in a command stands for the first model of docs/model-language.md.
# usage: PTC_SOURCE_DIR=... PTC_BINARY_DIR=... commands.sh
set -uo pipefail
cd "$PTC_SOURCE_DIR" || exit 1
PATH="$PTC_BINARY_DIR/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
documents="README.md ARCHITECTURE.md examples/README.md docs/*.md"
n_models=0 n_commands=0 n_files=0 n_skipped=0 failures=0
fail()
{
    echo "FAIL: $1"
    failures=$((failures + 1))
}

# ---- models: ```xml blocks that start with <model, trained for two steps; reviews/ and photos/ are the data of some
ln -s "$PTC_SOURCE_DIR/tests/fixtures/reviews" "$work/reviews"
ln -s "$PTC_SOURCE_DIR/tests/errors/data/pictures" "$work/photos"
for document in $documents; do
    csplit -sz -f "$work/part-" -b %03d.xml "$document" '/^```/' '{*}'
    for part in "$work"/part-*.xml; do
        [ "$(head -1 "$part")" = '```xml' ] && sed -n 2p "$part" | grep -q '^<model' || continue
        n_models=$((n_models + 1))
        sed 1d "$part" >"$work/model-$n_models.xml"
        ptc "$work/model-$n_models.xml" --max-steps=2 >"$work/log" 2>&1 || { fail "$document: a model in it fails"; cat "$work/log"; }
    done
    rm -f "$work"/part-*
done

# ---- commands: `ptc ...` in a sentence, and indented lines that start with ptc
has_data=1
[ -r /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || has_data=
while read -r document command; do
    words=${command#*ptc }
    words=${words//model.xml/$work/model-1.xml}
    case $words in
    *.xml*--* | --*.xml* | *--help | *--version | ops | schema | check* | plan* | opt*) ;;
    --emit=*) words="$words $work/model-1.xml" ;;
    *) words="$words --max-steps=2" ;;
    esac
    if [ -z $has_data ] && [[ $words = *examples/* ]]; then
        n_skipped=$((n_skipped + 1))
        continue
    fi
    n_commands=$((n_commands + 1))
    # shellcheck disable=SC2086 # words
    ptc $words >"$work/log" 2>&1 || { fail "$document: '$command' fails"; tail -20 "$work/log"; }
done < <(grep -oE '^    (build/release/bin/)?ptc [^#]*|`ptc [^`]*`' $documents |
    sed -E 's/^([^:]*):[^p]*ptc /\1 ptc /; s/^([^:]*):.*bin\/ptc /\1 ptc /; s/`$//' | sort -u)
[ $n_skipped = 0 ] || echo "SKIP: no dataset-fashion-mnist"

# ---- files: `folder/name.ext` or `folder/`, and --flags
for document in $documents; do
    for file in $(grep -oE '`(base|ir|frontend|passes|codegen|runtime|driver|tests|examples|tools|docs|cmake)/[a-zA-Z0-9_./-]*`' "$document" | tr -d '`' | sort -u); do
        n_files=$((n_files + 1))
        [ -e "$file" ] || fail "$document names $file, which does not exist"
    done
    for flag in $(grep -oE '`--[a-z-]+' "$document" | tr -d '`' | sort -u); do
        [ "$flag" = --help ] || [ "$flag" = --version ] ||
            grep -q "^OPTION('.', \"${flag#--}\"" driver/options.def || fail "$document names $flag, which ptc does not have"
    done
done

echo "$n_models models, $n_commands commands, $n_files files"
[ $n_models -gt 1 ] && [ $n_commands -gt 3 ] && [ $n_files -gt 3 ] && [ $failures = 0 ]
