#!/bin/bash
# The comparison of equality.sh can fail: a rank that goes on with other numbers than the sum of a bucket of gradients
# (PTC_FAULT=skip_reduce) is seen, whichever rank it is, in losses and in weights; and so is a changed bit of either.
. "$(dirname "$0")/lib.sh"
plain_kernels
needs_ranks

two() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" -n 2 --replicas=2 --micro-batches=4 --deterministic "$@" "$tied"
}

is_seen() # RANK: rows and weights of its own replica, or of the other one that gets its gradients too late, differ
{
    PTC_FAULT=skip_reduce:$1:3 two broken || return
    fails_with 1 same_run whole broken && fails_with 1 same_rows whole broken && fails_with 1 same_weights whole broken
}

# Losses of the steps before the fault, and that of the step itself, whose gradients came too late to change it.
begins_after() # STEP
{
    local n=$1
    diff <(rows whole/metrics.jsonl train | head -"$n") <(rows broken/metrics.jsonl train | head -"$n") >/dev/null || return
    ! diff <(rows whole/metrics.jsonl train | sed -n $((n + 1))p) <(rows broken/metrics.jsonl train | sed -n $((n + 1))p)
}

# One number of one row, one byte of the weights.
one_digit()
{
    cp -r whole digit && sed -i '7s/"loss":\([0-9.]*\)[0-9]/"loss":\1x/' digit/metrics.jsonl &&
        fails_with 1 same_rows whole digit && same_weights whole digit
}
one_bit()
{
    local file
    cp -r whole bit
    file=$(last_checkpoint bit)/model.safetensors
    printf '\001' | dd of="$file" bs=1 seek=$(($(wc -c <"$file") - 4)) conv=notrunc 2>/dev/null
    same_rows whole bit && fails_with 1 same_weights whole bit
}

check "two replicas" two whole
check "and again" two again
check "nothing is seen where nothing is" same_run whole again
check "a bucket is skipped on rank 1" is_seen 1
check "a bucket is skipped on rank 0" is_seen 0
check "the losses part after the step of the fault" begins_after 2
check "another learning rate" fails_with 1 eval "two other --set=train.lr=0.0100001 && same_run whole other"
check "one digit of one row" one_digit
check "one bit of one weight" one_bit
finish
