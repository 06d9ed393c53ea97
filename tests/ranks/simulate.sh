#!/bin/bash
# ptc plan --simulate: PipeTransformer's jobs on its cluster, by its planner and by ours, 1,024 devices, and what cannot be.
# Without --simulate: planner="paper".
. "$(dirname "$0")/lib.sh"
clusters=$PTC_SOURCE_DIR/examples/clusters
theirs=$clusters/rtx5000-2x8.xml

model() # PAPER-MODEL CLUSTER-ATTRIBUTES FREEZE-ATTRIBUTES: on standard output
{
    sed "s|<train |<cluster $2/>\n  <train |; s|<freeze .*/>|<freeze $3/>|" "$PTC_SOURCE_DIR/examples/paper/$1.xml"
}
third='policy="schedule" alpha="{1 / 3.0}"'
model vit-b16-imagenet 'planner="paper"' "$third" >vit-paper.xml
model vit-b16-imagenet '' "$third" >vit.xml
model vit-b16-cifar100 'planner="paper"' "$third" >cifar-paper.xml
model bert-large-squad 'planner="paper"' "$third" >bert-paper.xml
model vit-b16-imagenet '' 'policy="autofreeze"' >autofreeze.xml
imagenet=--synthetic=1281167 cifar=--synthetic=50000 squad=--synthetic=88524

simulate() # FLAG... MODEL
{
    $PTC plan --simulate "$@" >forecast.txt || { cat forecast.txt; return 1; }
}

# frozen layers, K and R of all epochs
column() # NUMBER: of the table
{
    awk -v n="$1" '/^epoch/ { on = 1; next } !NF { on = 0 } on { printf "%s%s", sep, $n; sep = " " }' forecast.txt
}
goes() # FROZEN STAGES REPLICAS FLAG...
{
    local frozen=$1 stages=$2 replicas=$3
    shift 3
    simulate "$@" || return
    [ "$(column 2)" = "$frozen" ] && [ "$(column 3)" = "$stages" ] && [ "$(column 4)" = "$replicas" ] && return
    cat forecast.txt
    return 1
}

speedup() # LINE: against what, as the text says it
{
    sed -nE "s/^$1 .*speedup +([0-9.]+) .*/\1/p" forecast.txt
}
between() # LOW VALUE HIGH
{
    awk -v l="$1" -v v="$2" -v h="$3" 'BEGIN { exit !(v != "" && l <= v + 0 && v + 0 <= h) }' || { echo "$2 is not in $1..$3"; return 1; }
}
is_faster() # LOW HIGH FLAG...: against the paper's static pipeline
{
    local low=$1 high=$2
    shift 2
    simulate "$@" && between "$low" "$(speedup "the paper's static pipeline")" "$high"
}

# ---- the paper's jobs
check "ViT, frozen layers, K and R" goes "0 4 7 9 10 11 11 12 12 12" "8 8 4 2 2 1 1 1 1 1" "2 2 4 8 8 16 16 16 16 16" \
    --cluster="$theirs" $cifar cifar-paper.xml
check "BERT-large" goes "0 8 14" "8 8 4" "2 2 4" --cluster="$theirs" $squad bert-paper.xml
check "ImageNet: 2.83 within 15 %" is_faster 2.41 3.25 --cluster="$theirs" $imagenet vit-paper.xml
check "CIFAR-100: 2.44 within 15 %" is_faster 2.08 2.80 --cluster="$theirs" $cifar --set=freeze.alpha=0.25 cifar-paper.xml
check "Fig. 9, without a cache: 2.27 within 15 %" is_faster 1.93 2.61 --cluster="$theirs" --no-cache $cifar cifar-paper.xml
check "gradnorm, as much as it may" goes "0 4 7 9 10 11 12 12 12 12" "1 1 1 1 1 1 1 1 1 1" \
    "16 16 16 16 16 16 16 16 16 16" --cluster="$theirs" $cifar "$PTC_SOURCE_DIR/examples/paper/vit-b16-cifar100.xml"
check "decisions every 100 steps, 350 in all" goes "0 4 7 9" "8 8 8 8" "2 2 2 2" --cluster="$theirs" --replicas=2 $cifar \
    --set=freeze.every_steps=100 --set=train.max_steps=350 "$PTC_SOURCE_DIR/examples/paper/vit-b16-cifar100.xml"
check "nothing frozen" is_faster 1 1 --cluster="$theirs" --no-freeze $cifar cifar-paper.xml
check "--no-replicate" goes "0 4 7 9 10 11 11 12 12 12" "8 8 4 2 2 1 1 1 1 1" "2 2 2 2 2 2 2 2 2 2" --no-replicate \
    --cluster="$theirs" $cifar cifar-paper.xml
check "--no-repipe" goes "0 4 7 9 10 11 11 12 12 12" "8 8 8 8 8 8 8 8 8 8" "2 2 2 2 2 2 2 2 2 2" --no-repipe \
    --cluster="$theirs" $cifar cifar-paper.xml
ablation() # each part is worth something
{
    local all repipe freeze
    simulate --cluster="$theirs" $cifar cifar-paper.xml && all=$(speedup "the paper's static pipeline") &&
        simulate --no-replicate --cluster="$theirs" $cifar cifar-paper.xml &&
        repipe=$(speedup "the paper's static pipeline") &&
        simulate --no-repipe --cluster="$theirs" $cifar cifar-paper.xml &&
        freeze=$(speedup "the paper's static pipeline") && echo "$freeze $repipe $all" &&
        between 1 "$freeze" "$repipe" && between "$repipe" "$repipe" "$all"
}
check "the parts, one by one" ablation
check "our own, its replicas held" goes "0 4 7 9" "8 8 8 8" "2 2 2 2" --no-repipe --stages=8 --cluster="$theirs" $cifar \
    --set=freeze.every_steps=100 --set=train.max_steps=350 "$PTC_SOURCE_DIR/examples/paper/vit-b16-cifar100.xml"
best_micro() # Fig. 11: twice K
{
    local m best=0 rate most=0
    for m in 8 16 24 32 40 48; do
        simulate --cluster="$theirs" --no-freeze --micro-batches=$m $imagenet vit-paper.xml || return
        rate=$(sed -nE 's/^the paper.*gpipe, ([0-9]+) samples.*/\1/p' forecast.txt)
        [ "$rate" -le "$most" ] || { most=$rate best=$m; }
    done
    [ $best = 16 ] && between 369 "$most" 451 # 410 samples/s
}
check "Fig. 11, K = 8" best_micro
ours() # is faster than theirs, and than the best static plan
{
    is_faster 2.9 9 --cluster="$theirs" $imagenet vit.xml && between 1.5 "$(speedup "the best static plan")" 9
}
check "our own planner" ours

# ---- many devices, JSON
many()
{
    local started limit=2000
    [ -z "${E2E_SANITIZED:-}" ] || limit=20000
    started=$(date +%s%N)
    simulate --cluster="$clusters/h100-128x8.xml" --json $imagenet --set=train.batch=4096 \
        vit.xml || return
    between 0 $((($(date +%s%N) - started) / 1000000)) $limit && grep -q '"devices": 8' forecast.txt &&
        [ "$(grep -c '"frozen":' forecast.txt)" = 10 ]
}
check "1,024 devices in 2 s" many
check "one machine" simulate --cluster="$clusters/h100-1x8.xml" --no-cache $imagenet vit.xml

# ---- ranks of this machine
here() # two replicas from the start, and the outputs of what is frozen kept
{
    goes "0 2 3 3" "1 1 1 1" "2 2 2 2" -n 2 --threads=1 --synthetic=256 --set=freeze.policy=schedule --set=freeze.warmup=0 \
        --set=train.epochs=4 "$PTC_SOURCE_DIR/examples/vit-elastic.xml" || return
    grep -q "costs measured" forecast.txt && [ "$(column 7)" = "no yes yes yes" ] || { cat forecast.txt; return 1; }
}
check "two ranks here" here

# ---- what cannot be
refused() # CODE PATTERN FLAG...
{
    local code=$1 pattern=$2
    shift 2
    fails_with "$code" $PTC plan "$@" && grep -q "$pattern" check.log
}
echo '<cluster nodes="1" stages="2"/>' >wish.xml
echo '<cluster devices="2"/>' >nodes.xml
echo '<model name="x"/>' >model.xml
echo '<cluster nodes="1" devices="6"/>' >six.xml
check "no cluster" refused 2 "wants a described cluster" --simulate vit.xml
check "a cluster without --simulate" refused 2 "is for --simulate" --cluster="$theirs" vit.xml
check "no such cluster" refused 1 "none.xml" --simulate --cluster=none.xml vit.xml
check "a wish in a cluster" refused 1 "wish.xml:1:20: error: 'stages' is for the <cluster> of a model" --simulate --cluster=wish.xml $imagenet vit.xml
check "no data" refused 1 "imagenet/train" --simulate --cluster="$theirs" vit.xml
check "no nodes" refused 1 "wants nodes=" --simulate --cluster=nodes.xml $imagenet vit.xml
check "no <cluster>" refused 1 "expected <cluster> as the root, found <model>" --simulate --cluster=model.xml $imagenet vit.xml
check "autofreeze" refused 1 "policy autofreeze" --simulate --cluster="$theirs" $imagenet autofreeze.xml
check "the paper's K" refused 1 "power of two of stages that divides the 16 ranks" --simulate --cluster="$theirs" --stages=3 $imagenet vit-paper.xml
check "4 ranks of 16 devices" refused 1 "16 devices, but there are 4 ranks" --simulate -n 4 --cluster="$theirs" $imagenet vit.xml
check "costs of a cluster" refused 2 "no --costs" --simulate --costs=measured --cluster="$theirs" $imagenet vit.xml
check "the paper's rule here" refused 3 "no -n" --simulate -n 1 $imagenet vit-paper.xml
check "deterministic" refused 3 "are not simulated" --simulate --deterministic --cluster="$theirs" $imagenet vit.xml
check "3 replicas" refused 1 "any stages x 3 replicas are not 16 ranks" --simulate --replicas=3 --cluster="$theirs" $imagenet vit.xml
check "a small batch" refused 1 "16 replicas are more than the 4 samples" --simulate --stages=1 --set=train.batch=4 \
    --cluster="$theirs" $imagenet vit.xml
check "six devices" simulate --cluster=six.xml $imagenet vit.xml

# ---- planner="paper" for real ranks
plans_like() # "KxR M SCHEDULE: FIRST UNITS" FLAG...
{
    local want=$1 have
    shift
    $PTC plan --json "$@" >plan.json || return
    have=$(awk -F'[:,]' '/"alternatives"/ { exit } /"stages":/ { k = $2 } /"replicas":/ { r = $2 }
        /"micro_batches":/ { m = $2 } /"schedule":/ { s = $2 } /"first_units":/ { on = 1; next } /\]/ { on = 0 }
        on { gsub(/[ ,]/, ""); units = units " " $0 }
        END { gsub(/[ "]/, "", k); gsub(/ /, "", r); gsub(/ /, "", m); gsub(/[ "]/, "", s); print k "x" r " " m " " s ":" units }' plan.json)
    [ "$have" = "$want" ] || { echo "'$have', not '$want'"; return 1; }
}
check "8 ranks" plans_like "8x1 16 gpipe: 1 5 7 10 13 16 19 23" -n 8 --set=train.batch=16 vit-paper.xml
check "2 of 8 stages" plans_like "2x4 64 gpipe: 1 14" -n 8 --stages=2 --set=train.batch=64 vit-paper.xml
check "6 ranks" refused 1 "halves a power of two" -n 6 vit-paper.xml
check "replicas" refused 1 "chooses cuts and replicas by itself" -n 8 --replicas=2 vit-paper.xml
finish
