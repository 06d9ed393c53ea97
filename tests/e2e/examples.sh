#!/bin/bash
# Every example learns: the loss falls over a short run on Fashion-MNIST. Skipped without the Debian package.
. "$(dirname "$0")/lib.sh"

if [ ! -r $fashion/train-images-idx3-ubyte.gz ]; then
    skip "no dataset-fashion-mnist"
    finish
fi
first_samples 4000 500

# Mean loss of the last ten steps below 0.75 of the mean of the first three.
falls() # OUT
{
    grep '"split":"train"' "$1/metrics.jsonl" | sed -E 's/.*"loss":([^,}]*).*/\1/' | awk '
        { loss[NR] = $1 }
        END {
            first = (loss[1] + loss[2] + loss[3]) / 3
            for (i = NR - 9; i <= NR; i++) last += loss[i] / 10
            printf "%d steps, loss %.3f to %.3f\n", NR, first, last
            exit !(NR >= 20 && last < 0.75 * first)
        }'
}

learns() # MODEL FLAG...
{
    rm -rf out
    $PTC "$@" --out=out "${first_samples[@]}" --set=train.eval_every=0 && falls out
}

# A learning rate of nothing is seen.
does_not_learn()
{
    rm -rf out
    $PTC "$PTC_SOURCE_DIR/examples/mlp-fashion-mnist.xml" --out=out "${first_samples[@]}" --max-steps=40 --set=train.lr=0 && fails_with 1 falls out
}

for model in "$PTC_SOURCE_DIR"/examples/*.xml; do
    check "${model##*/}" learns "$model" --max-steps=40 --set=train.batch=32 \
        --set=train.warmup_steps=0 --set=train.schedule=constant
done
check "a learning rate of 0 is seen" does_not_learn
finish
