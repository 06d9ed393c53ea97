#!/bin/bash
# ptc plan: text and JSON of plans that are given, that are left to the planner, and that cannot be. It needs no MPI.
. "$(dirname "$0")/lib.sh"
: "${PLAN_JSON:?}"
# table, positions, 2 layers, the final norm, bias; the tied matrix is the table
n_params=$((24 * 16 + 6 * 16 + 2 * (64 + 4 * 272 + 1072) + 32 + 24))

plans() # PATTERN FLAG...: the summary that plan_json prints is like PATTERN (as of case)
{
    local pattern=$1 have
    shift
    $PTC plan --json "$@" >plan.json && have=$("$PLAN_JSON" plan.json 7 $n_params) || return
    # shellcheck disable=SC2254 # a pattern
    case $have in
    $pattern) ;;
    *)
        echo "'$have', not '$pattern'"
        return 1
        ;;
    esac
}

# ---- what is asked for is done
check "one rank" plans "1x1 1 *: 1-7" "$tied"
check "3 stages" plans "3x1 5 1f1b: 1-* *-* *-7" -n 3 --stages=3 --micro-batches=5 --schedule=1f1b "$tied"
check "2 stages x 2 replicas" plans "2x2 4 zb-h1: 1-* *-7" -n 4 --stages=2 --replicas=2 --micro-batches=4 \
    --schedule=zb-h1 "$tied"
check "a stage for every unit" plans "7x1 7 gpipe: 1-1 2-2 3-3 4-4 5-5 6-6 7-7" -n 7 --stages=7 --micro-batches=7 \
    --schedule=gpipe "$tied"
check "7 units on 4 stages" plans "4x1 4 *: 1-* *-* *-* *-7" -n 4 --stages=4 --micro-batches=4 "$tied"
check "uneven replicas" plans "1x3 5 *: 1-7" -n 3 --replicas=3 --micro-batches=5 "$tied"
for n in 2 3 4 5 6 7 8; do
    check "left to the planner: $n ranks" plans "*: 1-*" -n $n "$tied"
done
check "measured" plans "2x1 4 *: 1-* *-7" -n 2 --stages=2 --micro-batches=4 --costs=measured --threads=1 "$tied"

# ---- measured costs are kept when nothing else ran
costs_again() # SHARE PATTERN: what is said of kept costs whose measuring waited for a core for this share of the time
{
    local flags=(--json -n 2 --stages=2 --micro-batches=4 --costs=measured --threads=1 "$tied")
    PTC_CACHE_DIR=$PWD/costs $PTC plan "${flags[@]}" >plan.json && sed -i "1s/.*/$1/" costs/*.costs &&
        PTC_CACHE_DIR=$PWD/costs $PTC plan "${flags[@]}" >plan.json && grep -q "\"costs\": \"$2\"" plan.json
}
check "a calm machine" costs_again 0.01 "measured earlier"
check "a busy machine" costs_again 0.5 "measured\( while other processes ran\)\?"

check "verified" plans "2x1 4 *: 1-* *-7" -n 2 --stages=2 --micro-batches=4 --verify-each "$tied"

# ---- <cluster>
cluster() # ATTRIBUTES: the model with them, cluster.xml
{
    sed "s|<train |<cluster $1/>\n  <train |" "$tied" >cluster.xml
}
in_cluster() # ATTRIBUTES PATTERN FLAG...
{
    local pattern=$2
    cluster "$1"
    shift 2
    plans "$pattern" "$@" cluster.xml
}
check "cuts" in_cluster 'cuts="3 5"' "3x1 *: 1-2 3-4 5-7" -n 3
check "cuts, twice" in_cluster 'cuts="2" micro_batches="4"' "2x2 4 *: 1-1 2-7" -n 4
check "all of it" in_cluster 'stages="2" replicas="2" micro_batches="6" schedule="gpipe"' "2x2 6 gpipe: *" -n 4
check "flags before attributes" in_cluster 'stages="2" micro_batches="6" schedule="gpipe"' "3x1 3 1f1b: *" -n 3 --stages=3 \
    --micro-batches=3 --schedule=1f1b
check "set before attributes" in_cluster 'stages="2" micro_batches="6"' "3x1 6 *: *" -n 3 --set=cluster.stages=3
check "memory that is enough" in_cluster 'memory="1"' "*" -n 2

# ---- text
text()
{
    $PTC plan -n 4 --stages=2 --micro-batches=4 --schedule=zb-h1 "$tied" >plan.txt && cat plan.txt &&
        grep -q "^tied on 4 ranks: 2 stages x 2 replicas, 4 micro-batches of 5 samples, zb-h1" plan.txt &&
        grep -qE "^predicted step [0-9.]+ ms, bubble [0-9.]+ %; sent [0-9.]+ MiB, exchanged by replicas [0-9.]+ MiB a step" plan.txt &&
        grep -qE "^ +0 +1-[0-9] +tokens [.][.] " plan.txt && grep -qE "^ +1 +[0-9]-7 .* bias " plan.txt &&
        grep -qE "^  stage 1 +F0 B0( [FBW][01])*$" plan.txt && grep -q "chosen" plan.txt
}
alternatives() # those that lost say why
{
    $PTC plan -n 4 "$tied" >plan.txt && cat plan.txt && [ "$(grep -c 'chosen$' plan.txt)" = 1 ] &&
        [ "$(grep -cE '% slower$|less simple$' plan.txt)" -ge 5 ]
}
trace()
{
    $PTC plan -n 2 --stages=2 --micro-batches=3 --schedule=1f1b --trace=trace.json "$tied" >plan.txt &&
        [ "$(grep -oE '"name": ?"[FB][012]"' trace.json | wc -l)" = 12 ]
}
check "text" text
check "alternatives" alternatives
check "the simulated timeline" trace

# ---- what cannot be
refused() # CODE TEXT FLAG...
{
    local code=$1 text=$2
    shift 2
    fails_with "$code" $PTC plan "$@" >out.log 2>err.log || { cat out.log err.log; return 1; }
    cat err.log
    grep -qF -- "$text" err.log && [ ! -s out.log ]
}
check "1: more stages than units" refused 1 "8 stages are too many: the model has 7 units" -n 8 --stages=8 "$tied"
check "1: stages that do not divide the ranks" refused 1 "are not 4 ranks" -n 4 --stages=3 "$tied"
check "1: stages x replicas" refused 1 "2 stages x 4 replicas are not 4 ranks" -n 4 --stages=2 --replicas=4 "$tied"
check "1: micro-batches of nothing" refused 1 "19 micro-batches, but a batch has 18 samples" -n 2 --micro-batches=19 "$tied"
check "1: a replica without micro-batch" refused 1 "less than 3 replicas" -n 3 --replicas=3 --micro-batches=2 "$tied"
check "1: deterministic, nothing for the last" refused 1 "nothing is left for the last" -n 3 --replicas=3 --micro-batches=4 \
    --deterministic "$tied"
check "2: no such schedule" refused 2 "--schedule wants gpipe, 1f1b or zb-h1" -n 2 --schedule=dualpipe "$tied"
check "2: no such costs" refused 2 "--costs wants measured or model" -n 2 --costs=guessed "$tied"
cluster 'memory="0.00001"'
check "1: too little memory" refused 1 "MiB" -n 2 cluster.xml
check "1: too little memory for these stages" refused 1 "MiB" -n 2 --stages=2 --micro-batches=4 cluster.xml
check "1: too little memory for a run" fails_with 1 $PTC --micro-batches=2 --max-steps=1 --costs=model cluster.xml
cluster 'cuts="3 9"'
check "1: a cut behind the last unit" refused 1 "unit 9 of 7" -n 3 cluster.xml
cluster 'cuts="5 3"'
check "1: cuts that descend" refused 1 "cuts is '5 3'" -n 3 cluster.xml
cluster 'cuts="3 5" stages="2"'
check "1: cuts for other stages" refused 1 "2 cuts make 3 stages, not 2" -n 2 cluster.xml
cluster 'cuts="3 5"'
check "1: cuts for other ranks" refused 1 "are not 4 ranks" -n 4 cluster.xml
cluster 'micro_batches="19"'
check "1: micro-batches of nothing, in the model" refused 1 "19 micro-batches" -n 2 cluster.xml

# ---- the program of a rank
emits() # RANK PATTERN COUNT FLAG...: so many lines of @train are like PATTERN
{
    local rank=$1 pattern=$2 count=$3 have
    shift 3
    $PTC --emit=ir -n 2 --rank="$rank" --micro-batches=3 --schedule=1f1b "$@" "$tied" >rank.ptir || return
    have=$(sed -n '/^func step @train/,/^}/p' rank.ptir | grep -cE "$pattern")
    [ "$have" = "$count" ] || { echo "$have lines like '$pattern', not $count"; return 1; }
}
# activations and their gradients, one of each micro-batch
check "stage 1 receives" emits 1 " = recv [{]micro=[012], peer=0, .* : f32.* u[0-9]+$" 3 --stages=2
check "stage 0 receives" emits 0 " = recv [{]micro=[012], peer=1, .* : f32.* bwd$" 3 --stages=2
check "stage 1 sends" emits 1 "^  send %[0-9]+ [{]micro=[012], peer=0, .* bwd$" 3 --stages=2
check "stages add no gradients" emits 0 "all_reduce" 0 --stages=2
check "replicas add the loss, and squares of gradients" emits 1 " = all_reduce " 2 --replicas=2
check "gradients go to their owners" emits 1 " = reduce .*root=[01]" 2 --replicas=2
check "who give the new params" emits 1 " = bcast .*root=[01]" 2 --replicas=2
check "replicas wait for each" emits 1 "^  wait " 6 --replicas=2
check "replicas send nothing" emits 1 "send|recv" 0 --replicas=2
check "2: no such rank" fails_with 2 $PTC --emit=ir -n 2 --rank=2 "$tied"
finish
