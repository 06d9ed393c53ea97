#!/bin/bash
# Texts padded to the bucket of the batch: the same losses as padded to one length; the same run to the byte when it is
# cut in time (resume), in stages or, deterministic, in replicas. The encoder of examples/text on generated sentences.
. "$(dirname "$0")/lib.sh"
plain_kernels

. "$ranks/texts.sh"

small+=(--set=layers=2 --set=train.epochs=3 --set=train.lr=0.01 --set=train.warmup_steps=0)
fixed=(--set=data.buckets="tokens: 24")
several=(--set=data.buckets="tokens: 8 12 16")

on() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" "${small[@]}" "$@" model.xml
}

# Every length is met; 36 steps and three evaluations.
equals_fixed() # DEVICE BOUND
{
    on fixed --device="$1" --set=dropout=0 "${fixed[@]}" &&
        on several --device="$1" --set=dropout=0 "${several[@]}" --profile >several.log || return
    grep -q 'for 4 lengths' several.log || return
    if [ "$1" = cpu ]; then
        for length in 8 12 16 24; do
            grep -qE " [1-9][0-9]*( +[0-9.]+){3}  k[0-9]+ tokens=$length\$" several.log || { echo "never $length"; return 1; }
        done
    fi
    [ "$(rows several/metrics.jsonl train | wc -l)" = 36 ] && [ "$(rows several/metrics.jsonl eval | wc -l)" = 3 ] &&
        $COMPARE curves fixed/metrics.jsonl several/metrics.jsonl "$2"
}
check "cpu: as with one length" equals_fixed cpu 2e-6
check "interp: as with one length" equals_fixed interp 1e-6

# Without the mask padding counts, and the lengths are seen.
unmasked()
{
    sed 's/in="x bias"/in="x zero"/; s|<use block="padding_bias".*|&<map name="zero" expr="0 * bias"/>|' model.xml >unmasked.xml
    train a "${small[@]}" --set=dropout=0 "${fixed[@]}" unmasked.xml &&
        train b "${small[@]}" --set=dropout=0 "${several[@]}" unmasked.xml &&
        fails_with 1 $COMPARE curves a/metrics.jsonl b/metrics.jsonl 1e-3
}
check "padding that is seen" unmasked

# Every length is compiled again when a layer freezes.
freezes()
{
    sed 's|<input name="ids"|<freeze policy="schedule" alpha="0.5" keep="1"/>&|' model.xml >freezing.xml
    train a "${small[@]}" --set=dropout=0 "${fixed[@]}" freezing.xml &&
        train b "${small[@]}" --set=dropout=0 "${several[@]}" freezing.xml &&
        [ "$(grep -c '"event":"transition"' b/metrics.jsonl)" -ge 1 ] &&
        $COMPARE curves a/metrics.jsonl b/metrics.jsonl 2e-6 && fails_with 1 same_rows b several
}
check "layers that freeze" freezes

# Without groups other samples come together.
order()
{
    on whole "${several[@]}" && [ "$(rows whole/metrics.jsonl train | wc -l)" = 36 ] &&
        on other "${several[@]}" --set=data.group_by_length=0 && fails_with 1 same_rows whole other
}
check "grouped by length" order

on_again() # OUT FLAG...
{
    local out=$1
    shift
    $PTC --threads=1 --out="$out" --resume "${small[@]}" "${several[@]}" "$@" model.xml
}
# A checkpoint is evaluated with buckets, too; what is shown is the program for the longest.
evaluated()
{
    local flags=(--out=whole "${small[@]}" model.xml)
    $PTC eval "${flags[@]}" "${several[@]}" >several.log && $PTC eval "${flags[@]}" "${fixed[@]}" >fixed.log &&
        diff <(sed 's/, [0-9.]* s)//' several.log) <(sed 's/, [0-9.]* s)//' fixed.log) && grep -q '40 samples' fixed.log
}
shown()
{
    $PTC --emit=ir "${small[@]}" "${several[@]}" model.xml >ir.log && grep -q 'input "batch.ids" : i32\[8x24\]' ir.log &&
        $PTC --dump-ir=dump --max-steps=1 "${small[@]}" "${several[@]}" model.xml &&
        [ "$(cat dump/*.ptir | grep -c 'input "batch.ids" : i32\[8x24\]')" = "$(ls dump | wc -l)" ] &&
        $PTC plan -n 2 --costs=model "${small[@]}" "${several[@]}" model.xml >plan.log && grep -q 'on 2 ranks' plan.log
}
check "evaluation" evaluated
check "what is shown" shown

stopped() # STEP
{
    on part "${several[@]}" --max-steps="$1" && on_again part &&
        diff <(rows whole/metrics.jsonl train) <(rows part/metrics.jsonl train) && same_weights whole part
}
for step in 1 5 14 24; do
    check "stopped at step $step" stopped $step
done
other_group() { fails_with 1 on_again whole --set=data.group_by_length=2; }
check "another order is refused" other_group

needs_ranks
check "two micro-batches" on one --micro-batches=2 "${several[@]}"
two_stages()
{
    on stages --micro-batches=2 -n 2 --stages=2 --schedule="$1" "${several[@]}" && same_run one stages
}
two_replicas()
{
    on exact --micro-batches=2 --deterministic "${several[@]}" &&
        on replicas --micro-batches=2 --deterministic -n 2 --replicas=2 "${several[@]}" && same_run exact replicas
}
check "two stages, gpipe" two_stages gpipe
check "two stages, 1f1b" two_stages 1f1b
check "two stages, zb-h1" two_stages zb-h1
check "two replicas" two_replicas
finish
