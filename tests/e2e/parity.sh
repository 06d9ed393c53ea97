#!/bin/bash
# The losses, gradient norms and final weights of the fixture models agree with PyTorch's, on a device and its bound.
# usage: parity.sh DEVICE LOSS_BOUND NORM_BOUND WEIGHT_BOUND
. "$(dirname "$0")/lib.sh"
device=$1 loss_bound=$2 norm_bound=$3 weight_bound=$4

train() # OUT ARCHITECTURE RUN FLAG...
{
    local out=$1 model=$fixtures/$2-tiny.xml fixture=$fixtures/$2_losses.json run=$3 settings
    shift 3
    settings=$($COMPARE settings "$fixture" "$run") || return
    rm -rf "$out"
    # shellcheck disable=SC2086 # the settings are words
    $PTC "$model" --device="$device" --weights="$fixtures/$($COMPARE init "$fixture")" --out="$out" $settings "$@"
}

agrees() # ARCHITECTURE RUN
{
    local fixture=$fixtures/$1_losses.json status=0
    train out "$1" "$2" || return
    $COMPARE losses "$fixture" "$2" out/metrics.jsonl "$loss_bound" || status=1
    $COMPARE weights "$fixture" "$2" "$(last_checkpoint out)/model.safetensors" "$weight_bound" || status=1
    if grep -q grad_norm out/metrics.jsonl; then
        $COMPARE norms "$fixture" "$2" out/metrics.jsonl "$norm_bound" || status=1
    fi
    return $status
}

# A setting that is a little wrong must be seen.
differs() # ARCHITECTURE RUN FLAG...
{
    train wrong "$@" && fails_with 1 $COMPARE losses "$fixtures/$1_losses.json" "$2" wrong/metrics.jsonl "$loss_bound"
}

# bf16 is near PyTorch's autocast and near f32, but something else; a processor without it says so, and computes in f32.
near_in_bf16() # ARCHITECTURE
{
    local losses="$COMPARE losses $fixtures/$1_losses.json"
    train out "$1" adamw_bf16 2>log || return
    $losses adamw_bf16 out/metrics.jsonl 1e-2 && $losses adamw out/metrics.jsonl 1e-2 || return
    if grep -q 'no AVX512-BF16' log; then
        $losses adamw out/metrics.jsonl "$loss_bound"
    else
        fails_with 1 $losses adamw out/metrics.jsonl "$loss_bound"
    fi
}

says_that_it_has_no_bf16()
{
    ONEDNN_MAX_CPU_ISA=AVX2 train out vit adamw --precision=bf16 2>log || return
    grep -qx 'ptc: this processor has no AVX512-BF16: precision f32 instead of bf16' log &&
        $COMPARE losses "$fixtures/vit_losses.json" adamw out/metrics.jsonl "$loss_bound"
}

for architecture in vit postnorm rope alibi; do
    check "$architecture in bf16" near_in_bf16 $architecture
done
if [ "$device" = cpu ]; then
    check "a processor without bf16" says_that_it_has_no_bf16
fi
for architecture in vit postnorm rope alibi; do
    for run in adamw adamw_clip_cosine sgd_momentum sgd_clip; do
        check "$architecture, $run" agrees $architecture $run
    done
done
for run in adamw_clip_cosine sgd_momentum; do
    check "groups of params, $run" agrees groups $run
done
check "another layer_decay" differs groups adamw_clip_cosine --set=train.layer_decay=0.61
check "no weight decay" differs vit adamw --set=train.weight_decay=0
check "another eps" differs vit adamw --set=train.eps=1e-6
check "another beta2" differs vit adamw --set=train.beta2=0.99
check "another clip_norm" differs vit sgd_clip --set=train.clip_norm=2.9
check "no warm-up" differs vit adamw_clip_cosine --set=train.warmup_steps=0
check "another momentum" differs vit sgd_momentum --set=train.momentum=0.89
check "shuffled" differs vit adamw --set=data.shuffle=true
finish
