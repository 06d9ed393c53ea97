#!/bin/bash
# One model on K stages and R replicas is one model: the rows of metrics.jsonl and the tensors of the last checkpoint are
# the same to the bit for any K and any schedule, and, deterministic, for any R; without that R moves the losses by
# less than 1e-6 in 20 steps.
. "$(dirname "$0")/lib.sh"
needs_ranks

# SETTINGS of a group of runs: every run of it gets them, the model last
on() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" "$@" "${settings[@]}"
}

same_as() # OUT OTHER FLAG...: trains OUT with the flags and compares it with OTHER
{
    local out=$1 other=$2
    shift 2
    on "$out" "$@" && same_run "$other" "$out"
}

close_to() # OUT OTHER FLAG...: losses within 1e-6 of each other, over 20 steps
{
    local out=$1 other=$2
    shift 2
    on "$out" "$@" && [ "$(rows "$out/metrics.jsonl" train | wc -l)" = 20 ] &&
        $COMPARE curves "$other/metrics.jsonl" "$out/metrics.jsonl" 1e-6
}

layouts() # NAME GPIPE 1F1B ZB-H1: the stages for each schedule, in words
{
    local name=$1 schedule k
    shift
    check "$name: one rank" on one
    for schedule in gpipe 1f1b zb-h1; do
        for k in $1; do
            check "$name: $k stages, $schedule" same_as pipe one -n "$k" --stages="$k" --schedule=$schedule
        done
        shift
    done
}

replicas() # NAME KxR...: deterministic
{
    local name=$1 layout k r
    shift
    check "$name: one rank, deterministic" on exact --deterministic
    for layout in "$@"; do
        k=${layout%x*} r=${layout#*x}
        check "$name: $k stages x $r replicas, deterministic" same_as copies exact --deterministic -n $((k * r)) \
            --stages="$k" --replicas="$r"
    done
}

drift() # NAME R...: not deterministic
{
    local name=$1 r
    shift
    for r in "$@"; do
        check "$name: $r replicas" close_to drift one -n "$r" --replicas="$r"
    done
}

# ---- an encoder with a tied embedding: 7 units; 73 = 4 * 18 + 1, and 20 steps. 5 micro-batches: 4 4 4 4 2 samples
settings=(--micro-batches=5 "$tied")
layouts tied "1 2 3 4" "1 2 3 4" "1 2 3 4"
replicas tied 1x2 1x3 2x2 3x1
drift tied 2 3
check "tied: measured costs" same_as measured one -n 2 --stages=2 --costs=measured
check "tied: the planner's choice" same_as chosen exact -n 3 --deterministic
check "tied: several threads" same_as threads one -n 2 --stages=2 --threads=3

plain_kernels # the C compiler's vectors have had their groups of runs, vit has some below
momentum=(--set=train.optimizer=sgd --set=train.momentum=0.9 --set=train.lr=0.1 --set=train.clip_norm=0
    --set=train.schedule=constant --set=train.weight_decay=0.001)
settings=(--micro-batches=4 "${momentum[@]}" "$tied") # 5 5 5 3
layouts "tied, momentum" "" 3 2
replicas "tied, momentum" 1x4 2x2

# ---- groups of params: some frozen, inside and below what is trained
settings=(--set=train.batch=18 --set=train.epochs=5 --micro-batches=5 "$PTC_SOURCE_DIR/tests/fixtures/groups-tiny.xml")
layouts groups "2 3" "" 2
replicas groups 1x2 1x3 2x2
drift groups 2

# ---- the examples: 81 = 5 * 16 + 1, and 18 steps and two of an epoch more
if [ ! -r $fashion/train-images-idx3-ubyte.gz ]; then
    skip "no dataset-fashion-mnist"
    finish
fi
first_samples 81 50
small=("${first_samples[@]}" --set=d=16 --set=layers=3 --set=heads=2 --set=hidden=32 --set=train.batch=16
    --set=train.epochs=4 --max-steps=20 --set=train.warmup_steps=3 --set=train.eval_every=0)
example() # NAME FLAG...
{
    local name=$1
    shift
    settings=("${small[@]}" "$@" "$PTC_SOURCE_DIR/examples/$name.xml")
}

unset PTC_CFLAGS
example vit-fashion-mnist --micro-batches=4 --set=dropout=0.1 --set=augment=1
layouts vit "2" "4" "3"
replicas vit 1x2 1x4 2x2
drift vit 2 3
example vit-fashion-mnist --micro-batches=4 --set=dropout=0.1 --precision=bf16
layouts "vit, bf16" "" "3" ""
replicas "vit, bf16" 2x2
plain_kernels
example vit-alibi --micro-batches=5 # 4 4 4 4 and none
layouts alibi "3" "2" "4"
replicas alibi 1x2 1x3 2x2
drift alibi 2 3
example vit-postnorm --micro-batches=4
layouts postnorm "4" "3" "2"
replicas postnorm 1x4 2x2
drift postnorm 2 3
example vit-rmsnorm-swiglu-rotary --micro-batches=6 # 3 3 3 3 3 1
layouts rotary "2" "4" "3"
replicas rotary 1x2 2x2
drift rotary 2 3
finish
