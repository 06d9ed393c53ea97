#!/bin/bash
# One step of every model of the zoo has the loss and the gradients that Hugging Face computed, on a device and its bound.
# usage: zoo.sh DEVICE BOUND
. "$(dirname "$0")/../ranks/lib.sh"
device=$1 bound=$2
zoo=$fixtures/zoo models=$PTC_SOURCE_DIR/examples/zoo

step() # NAME FLAG...: one step from the weights that Hugging Face saved
{
    local flags name=$1
    shift
    mapfile -t flags < <($COMPARE flags "$zoo/$name")
    rm -rf out
    $PTC "$models/$($COMPARE file "$zoo/$name")" --device="$device" --weights="$zoo/$name" --out=out "${flags[@]}" "$@"
}

agrees() # NAME FLAG...
{
    step "$@" && $COMPARE step "$zoo/$1" "$models/$($COMPARE file "$zoo/$1")" out "$bound"
}

# What is a little wrong must be seen.
differs() # NAME FLAG...
{
    step "$@" && fails_with 1 $COMPARE step "$zoo/$1" "$models/$($COMPARE file "$zoo/$1")" out "$bound"
}

# The file as it is, with its real sizes, is a model, and its synthetic data fits; small, it runs two steps on that.
runs() # NAME
{
    local flags model=$models/$($COMPARE file "$zoo/$1")
    mapfile -t flags < <($COMPARE flags "$zoo/$1" | grep -v -e '=data\.' -e '=train\.')
    $PTC check "$model" &&
        $PTC "$model" --device="$device" --max-steps=2 --weights="$zoo/$1" --set=train.batch=4 --roundtrip-each --verify-each "${flags[@]}"
}

# There and back: names, layout, numbers and sizes as Hugging Face has them, and after a step the same names. Bytes are
# the same the second time.
exports() # NAME
{
    local dims model=$models/$($COMPARE file "$zoo/$1")
    mapfile -t dims < <($COMPARE flags "$zoo/$1" | grep -v -e '=data\.' -e '=train\.')
    rm -rf there again stepped
    $PTC export "$model" --weights="$zoo/$1" "${dims[@]}" -o there &&
        $COMPARE same "$zoo/$1" there && $COMPARE config "$zoo/$1" there &&
        fails_with 1 $COMPARE moved "$zoo/$1" there &&
        $PTC export "$model" --weights=there "${dims[@]}" -o again &&
        cmp there/model.safetensors again/model.safetensors && cmp there/config.json again/config.json &&
        step "$1" && $PTC export "$model" --out=out "${dims[@]}" -o stepped &&
        $COMPARE moved "$zoo/$1" stepped && cmp there/config.json stepped/config.json
}

# A mask without padding: 4 x 10 times 1.0
{
    printf '\0\0\x0d\2\0\0\0\4\0\0\0\x0a'
    printf '\x3f\x80\0\0%.0s' {1..40}
} >ones.idx

for folder in "$zoo"/*/; do
    name=$(basename "$folder")
    check "$name" agrees "$name"
    [ "$device" != interp ] || check "$name, synthetic data" runs "$name" # nothing here depends on the device
    [ "$device" != interp ] || check "$name, export" exports "$name"
    if [ -e "$folder/attention_mask.idx" ]; then
        check "$name, padding that is seen" differs "$name" --set=data.attention_mask.train="$PWD/ones.idx"
    fi
done
check "another number of heads" differs vit-b16 --set=heads=1
check "another window" differs modernbert --set=local=6
check "another base of the angles" differs llama --set=theta=10000.0
check "another distance" differs t5-encoder --set=distance=128

# Params that both stages use: of all layers, of distances, of the embedding.
[ "$device" = cpu ] || finish
needs_ranks
for name in albert mpnet llama-tied; do
    check "$name, two stages" agrees $name -n 2 --stages=2 --micro-batches=2 --threads=1 --costs=model --comm-timeout=60
done
finish
