#!/bin/bash
# A frozen param costs nothing: the program does not update it, has no state for it, and no gradient of its shape is made.
# That the groups train as PyTorch's do is in parity.sh.
. "$(dirname "$0")/lib.sh"
small=(--set=d=64 --set=layers=2 --set=hidden=160 --set=heads=4 --set=tokens=16 --set=vocabulary=300 --set=positions=16)
lora=$PTC_SOURCE_DIR/examples/zoo/bert-lora.xml

updated() # the params that @train sets
{
    sed -n '/^func step @train/,/^}/s/^  set .*{global="\([^"]*\)"}.* opt$/\1/p' module.ptir | grep -v '^adamw' | sort
}

only_adapters_and_head()
{
    $PTC "${small[@]}" --emit=ir -o module.ptir "$lora" || return
    updated >updated.txt
    {
        for layer in 0 1; do
            for map in q v; do
                printf 'layers.%s.layer.%s.lora.%s\n' $layer $map down $layer $map up
            done
        done
        printf '%s\n' head.b head.w pooler.b pooler.w
    } | sort | diff - updated.txt &&
        [ "$(grep -c '^global state' module.ptir)" = $((2 * $(wc -l <updated.txt))) ]
}

# Gradients of maps are the products with a transposed first operand: two for each of four adapters, the pooler, the head.
no_frozen_gradient()
{
    [ "$(grep -c 'matmul.*ta=true' module.ptir)" = 10 ]
}

# The embedding is below everything that is trained: nothing flows there.
all_learn()
{
    $PTC "${small[@]}" --emit=ir -o module.ptir --set=train.layer_decay=0.9 "$PTC_SOURCE_DIR/examples/zoo/bert.xml" &&
        updated >updated.txt && grep -q words.table updated.txt && grep -q layers.1.down.w updated.txt
}

learns()
{
    $PTC "${small[@]}" --out=out --set=train.epochs=8 --set=train.lr=0.01 "$lora" && tail -n 3 out/metrics.jsonl &&
        awk -F'"loss":' '/"train"/ { split($2, a, ","); l[++n] = a[1] } END { exit !(l[n] < 0.8 * l[1]) }' out/metrics.jsonl
}

check "only adapters and head are updated" only_adapters_and_head
check "no gradient of frozen maps" no_frozen_gradient
check "without groups all is updated" all_learn
check "adapters learn" learns
finish
