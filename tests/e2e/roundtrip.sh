#!/bin/bash
# Printing, parsing and verifying the IR after every pass changes no loss of any example, to the byte; nor do threads.
# The examples run on the fixture images, so that no data set is needed.
. "$(dirname "$0")/lib.sh"

# what makes an example small enough
settings_of() # MODEL
{
    case $1 in
    *bert-base*) echo "--set=d=32 --set=layers=2 --set=heads=4 --set=hidden=64 --set=vocabulary=100 --set=length=12
        --set=data.ids.high=99" ;;
    *vit-d192*) echo "--set=d=32 --set=layers=2 --set=heads=4 --set=hidden=64 --set=train.batch=8" ;;
    *vit-b16*) echo "--set=image=32 --set=d=32 --set=layers=2 --set=heads=4 --set=hidden=64 --set=train.batch=8" ;;
    *mlp*) echo "--set=train.batch=24" ;;
    */tests/*) return ;;
    *) echo "--set=train.batch=24 --set=d=32 --set=layers=2" ;;
    esac
    if grep -q '"labels" format="idx"' "$1"; then
        echo "--set=data.images.train=$fixtures/vit_images.idx --set=data.images.test=$fixtures/vit_images.idx
            --set=data.labels.train=$fixtures/vit_labels.idx --set=data.labels.test=$fixtures/vit_labels.idx"
    fi
}

train() # OUT MODEL FLAG...
{
    local out=$1 model=$2
    shift 2
    # shellcheck disable=SC2046 # the settings are words
    $PTC "$model" --out="$out" --max-steps=4 $(settings_of "$model") "$@"
}

roundtrip() # MODEL
{
    rm -rf plain printed
    train plain "$1" && train printed "$1" --roundtrip-each --verify-each && same_rows plain printed &&
        same_weights plain printed
}

threads() # MODEL
{
    local n
    rm -rf threads-*
    for n in 1 2 3; do
        train threads-$n "$1" --threads=$n || return
    done
    for n in 2 3; do
        same_rows threads-1 threads-$n && same_weights threads-1 threads-$n || return
    done
}

for model in "$PTC_SOURCE_DIR"/examples/*.xml "$PTC_SOURCE_DIR"/examples/bench/*.xml "$fixtures"/*-tiny.xml \
    "$e2e/dropout.xml"; do
    [ "${model##*/}" != banking-tiny.xml ] || continue # its data is not here (e2e_text)
    check "round trip: ${model##*/}" roundtrip "$model"
    check "threads: ${model##*/}" threads "$model"
done

# The comparison sees one changed digit, and one changed bit of the weights.
changed()
{
    train one "$e2e/dropout.xml" && train two "$e2e/dropout.xml" --set=train.lr=0.0100001 &&
        fails_with 1 same_rows one two && fails_with 1 same_weights one two
}
check "another learning rate is seen" changed
finish
