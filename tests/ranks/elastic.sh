#!/bin/bash
# Layers are frozen while the job trains, and it is planned, compiled and laid out again each time: on any number of
# ranks, through any plans, and across resumes it is the run of one rank that freezes at the same steps, to the bit.
. "$(dirname "$0")/lib.sh"
needs_ranks
plain_kernels
settings=(--deterministic --micro-batches=4 --set=layers=4 --set=train.epochs=6 --set=train.eval_every=1)
gradnorm=(--set=freeze.policy=gradnorm --set=freeze.alpha=0.4 --set=cache.use=on)

on() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" "${settings[@]}" "$@" "$tied"
}

decisions() # OUT
{
    grep '"event":"freeze"' "$1/metrics.jsonl"
}

transitions() # OUT: how many
{
    grep -c '"event":"transition"' "$1/metrics.jsonl"
}

same_elastic() # OUT OUT
{
    same_run "$1" "$2" && diff <(decisions "$1") <(decisions "$2")
}

same_as() # OTHER FLAG...
{
    local other=$1
    shift
    on again "$@" && same_elastic "$other" again && [ "$(transitions again)" -ge 3 ]
}

# ---- one rank
at_least_three()
{
    on one "${gradnorm[@]}" && decisions one && [ "$(transitions one)" -ge 3 ]
}
differs_without()
{
    on all --no-freeze "${gradnorm[@]}" && [ -z "$(decisions all)" ] && ! same_rows one all >rows.log
}
check "one rank, three transitions" at_least_three
check "--no-freeze is another run" differs_without

cached() # OUT: every transition
{
    ! grep '"event":"transition"' "$1/metrics.jsonl" | grep -v '"cached":1'
}
check "what is frozen is cached" cached one

# With sanitizers no more than this, in which what is not freed counts, too.
no_leaks() # FLAG...
{
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=1:fast_unwind_on_malloc=0 \
        LSAN_OPTIONS=suppressions=$ranks/lsan.supp:print_suppressions=0 same_as one "$@" "${gradnorm[@]}" >leaks.log 2>&1
    local code=$?
    cat leaks.log
    [ $code = 0 ] && ! grep 'detected memory leaks' leaks.log # mpirun does not tell the code of such a rank
}
if [ -n "${E2E_SANITIZED:-}" ]; then
    check "2 replicas, no leaks" no_leaks -n 2 --replicas=2
    finish
fi
check "--no-cache: the same bits" same_as one --no-cache "${gradnorm[@]}"
check "no room in the cache: the same bits" same_as one "${gradnorm[@]}" --set=cache.memory=1e-5

# ---- others
check "2 stages" same_as one -n 2 --stages=2 "${gradnorm[@]}"
check "3 stages, zb-h1" same_as one -n 3 --stages=3 --schedule=zb-h1 "${gradnorm[@]}"
check "2 replicas" same_as one -n 2 --replicas=2 "${gradnorm[@]}"
check "2 stages x 2 replicas" same_as one -n 4 --stages=2 --replicas=2 "${gradnorm[@]}"
check "the planner's choices, 2 ranks" same_as one -n 2 "${gradnorm[@]}"
check "the planner's choices, 4 ranks" same_as one -n 4 "${gradnorm[@]}"
reasons() # all transitions say why the plan is kept or left
{
    [ "$(grep '"event":"transition"' again/metrics.jsonl | grep -cE '"plan_why":"(kept, |saves |the plan before )')" \
        = "$(transitions again)" ]
}
check "they say why" reasons

by_paper() # from 4 stages to a single one
{
    sed "s|<train |<cluster planner=\"paper\"/>\n  <train |" "$tied" >paper.xml
    train again "${settings[@]}" "${gradnorm[@]}" -n 4 paper.xml && same_elastic one again &&
        grep '"event":"transition"' again/metrics.jsonl | tail -1 | grep '"stages":1,'
}
check "planner=\"paper\", 4 ranks" by_paper

# ---- the parts of it, switched off
layouts() # OUT: "STAGES REPLICAS IDLE FIRST-UNITS" of each
{
    grep '"event":"layout"' "$1/metrics.jsonl" | sed -E 's/.*"stages":([0-9]+),"replicas":([0-9]+),"idle":([0-9]+),.*"first_unit":(\[[^]]*\]).*/\1 \2 \3 \4/'
}
stays() # FLAG...: in the layout of the start
{
    same_as one --no-repipe "$@" "${gradnorm[@]}" && layouts again && [ "$(layouts again | sort -u | wc -l)" = 1 ]
}
check "--no-repipe, 2 stages" stays -n 2 --stages=2
check "--no-repipe, 3 stages" stays -n 3 --stages=3
check "--no-repipe, 2 stages x 2 replicas" stays -n 4 --stages=2 --replicas=2
check "--no-repipe, the planner's start" stays -n 4

packs() # "STAGES REPLICAS IDLE" FLAG...: at the end, with the replicas of the start
{
    local want=$1
    shift
    train again "${settings[@]}" "${gradnorm[@]}" --no-replicate "$@" && same_elastic one again && layouts again &&
        [ "$(layouts again | cut -d' ' -f2 | sort -u | wc -l)" = 1 ] &&
        [ "$(layouts again | tail -1 | cut -d' ' -f1-3)" = "$want" ]
}
check "--no-replicate, 2 ranks" packs "1 1 1" -n 2 paper.xml
check "--no-replicate, 3 ranks" packs "2 1 1" -n 3 "$tied"
check "--no-replicate, 4 ranks" packs "1 1 3" -n 4 paper.xml
check "--no-replicate, 2 replicas" packs "1 2 2" -n 4 --stages=2 paper.xml

# ---- other policies; decisions every few steps
of_policy() # FLAG...
{
    on policy "$@" && [ "$(transitions policy)" -ge "${least:-2}" ] && on again -n 3 "$@" && same_elastic policy again
}
check "schedule" of_policy --set=freeze.policy=schedule --set=freeze.alpha=0.5
least=1 check "autofreeze" of_policy --set=freeze.policy=autofreeze --set=freeze.percentile=80
check "explicit, to the last layer" of_policy --set=freeze.policy=explicit "--set=freeze.layers=0 1 1 3 4"
check "every 4 steps, with warm-up, one layer kept" of_policy "${gradnorm[@]}" --set=freeze.every_steps=4 \
    --set=freeze.warmup=2 --set=freeze.keep=1

# ---- resume: at a decision, before it, after it; on other layouts
go_on() # OUT STEP FLAG...: until that step
{
    local out=$1 step=$2 resume=--resume
    shift 2
    [ -d "$out" ] || resume=
    # shellcheck disable=SC2086 # one word or none
    $PTC --threads=1 --costs=model --comm-timeout=60 --out="$out" --max-steps="$step" $resume "${settings[@]}" \
        "${elastic[@]}" "$@" "${model:-$tied}"
}
elastic=("${gradnorm[@]}")
ends_like()
{
    same_rows one parts train && same_weights one parts
}
check "one rank, to the step of a decision" go_on parts 5
check "then 2 stages, to the middle of an epoch" go_on parts 8 -n 2 --stages=2
check "then 3 ranks" go_on parts 10 -n 3
check "then 2 replicas" go_on parts 17 -n 2 --replicas=2
check "then one rank" go_on parts 21
check "then 4 ranks" go_on parts 1000 -n 4
check "ends like the one that never stopped" ends_like

# The snapshot that outputs are compared with is in checkpoints.
plasticity=(--set=freeze.policy=plasticity --set=freeze.every_steps=3 --set=freeze.window=2 --set=freeze.patience=1
    --set=freeze.tolerance=0.02 --set=freeze.renew=2 --set=cache.use=on)
plasticity_goes_on()
{
    local elastic=("${plasticity[@]}")
    go_on pieces 11 -n 2 --stages=2 && go_on pieces 18 && go_on pieces 1000 -n 3 && same_rows policy pieces train &&
        same_weights policy pieces && diff <(decisions policy) <(decisions pieces)
}
least=1 check "plasticity" of_policy "${plasticity[@]}"
check "plasticity goes on" plasticity_goes_on

# Ranks that were idle have work again, and others become idle.
stops_idle() # of 4 ranks 3
{
    rm -rf idle
    model=paper.xml go_on idle 12 -n 4 --no-replicate --report=idle.html &&
        layouts idle | tail -1 | grep '^1 1 3 ' && grep 'idle ranks' idle.html
}
idle_traced()
{
    go_on idle 19 -n 3 --trace=trace.json && grep 'rank 2: idle' trace.json && layouts idle | tail -1 | grep '^2 1 1 '
}
ends_too()
{
    go_on idle 1000 -n 2 --stages=2 && same_rows one idle train && same_weights one idle
}
check "stops while ranks are idle" stops_idle
check "goes on, another rank is idle" idle_traced
check "ends like it, too" ends_too

# What is frozen already is cached from the first step on, without a decision.
resumed_is_cached()
{
    go_on warm 8 && go_on warm 9 -n 2 && ! grep '"step":9,"event":"freeze"' warm/metrics.jsonl &&
        grep '"step":9,"event":"resources"' warm/metrics.jsonl | grep -E '"cache_memory_rows":[1-9]'
}
check "a resumed run is cached" resumed_is_cached

# Which plan comes next is guessed; whether it is compiled in time is not certain, but not always too late.
made_ahead()
{
    grep -h '"event":"transition"' ./*/metrics.jsonl | grep -oE '"ahead":[01]' | sort | uniq -c &&
        grep -q '"event":"transition".*"ahead":1' ./*/metrics.jsonl
}
check "transitions find their programs made" made_ahead

# ---- a frozen param does not change by a bit; the others do
frozen_stay()
{
    rm -rf early late
    go_on early 8 && go_on late 30 -n 2 &&
        $COMPARE frozen "$(last_checkpoint early)/model.safetensors" "$(last_checkpoint late)/model.safetensors" \
            layers.0. layers.1. tokens. pos
}
check "frozen params stay" frozen_stay

# ---- other settings than before: what is frozen stays so, and what was not decided is not made up for
without_freeze()
{
    rm -rf kept && cp -r early kept && sed '/<freeze /d' "$tied" >plain.xml &&
        $PTC --threads=1 --costs=model --out=kept --max-steps=12 --resume "${settings[@]}" --set=cache.use=on plain.xml &&
        ! decisions kept | grep '"step":10,' && go_on kept 30 -n 2 && ! decisions kept | grep '"step":12,' &&
        $COMPARE frozen "$(last_checkpoint early)/model.safetensors" "$(last_checkpoint kept)/model.safetensors" \
            layers.0. layers.1. tokens. pos
}
freezes_later()
{
    go_on begun 8 --no-freeze && go_on begun 30 -n 2 && decisions begun &&
        decisions begun | head -1 | grep '"step":10,.*"decision":2,'
}
fewer_layers()
{
    go_on early 9 --set=layers=1 2>bad.log && return 1
    grep 'is of another model or job: it has 2 frozen layers, this model 1 layers' bad.log || { cat bad.log; return 1; }
}
check "goes on without <freeze>" without_freeze
check "freezes from the middle on" freezes_later
check "goes on with fewer layers" fewer_layers

# ---- evaluation of what is partly frozen
evaluates()
{
    $PTC eval --threads=1 --costs=model --out=early "${settings[@]}" "${gradnorm[@]}" "$@" "$tied" >eval.log 2>&1 ||
        { cat eval.log; return 1; }
    grep -oE 'test loss [0-9.]+ .*samples' eval.log
}
evaluates_alike()
{
    local one two
    one=$(evaluates) && two=$(evaluates -n 2 --stages=2) && [ "$one" = "$two" ]
}
check "eval" evaluates_alike

# ---- a rank is lost behind a transition; what is left goes on to the same end, from a checkpoint at a decision, which
# is taken again and told once
survives() # FAULT FLAG...
{
    local fault=$1
    shift
    rm -rf killed
    PTC_FAULT=$fault $PTC --threads=1 --costs=model --comm-timeout=60 --out=killed --max-restarts=1 \
        --set=train.checkpoint_every=5 "${settings[@]}" "${gradnorm[@]}" "$@" "$tied" && same_rows one killed train &&
        same_weights one killed && diff <(decisions one) <(decisions killed) &&
        [ "$(transitions killed)" = "$(transitions one)" ]
}
check "a rank is lost" survives kill:1:12 -n 2
check "an idle rank is lost" survives kill:2:18 -n 3
check "the others are lost while it is idle" survives kill:1:18 -n 3 --max-restarts=2
check "a rank is lost in a transition" survives transition:1:10 -n 2 --replicas=2

# ---- memory: with five of six layers frozen, most of it is given back
unset PTC_CFLAGS # a larger model
gives_back()
{
    local before after
    sed 's#<train #<freeze policy="explicit" layers="5"/>\n  <train #; s/train_limit="640" test_limit="128"/train_limit="64" test_limit="32"/' \
        "$PTC_SOURCE_DIR/examples/bench/vit-d192.xml" >large.xml
    $PTC --threads=1 --set=train.batch=32 --set=train.epochs=2 large.xml >memory.log || { cat memory.log; return 1; }
    before=$(sed -nE 's/.* ([0-9.]+) MiB planned$/\1/p' memory.log)
    after=$(sed -nE 's/.*memory ([0-9.]+) MiB planned, ([0-9.]+) MiB real$/\1 \2/p' memory.log)
    awk -v before="$before" '{ exit !($1 < 0.5 * before && $2 < 0.6 * before) }' <<<"$after" && return
    cat memory.log
    return 1
}
check "memory is given back" gives_back
list() # NAME EVENT: of the last one
{
    grep "\"event\":\"$2\"" halved/metrics.jsonl | tail -1 | sed -nE "s/.*\"$1_of_ranks\":\[([^]]*)\].*/\1/p"
}
ranks_give_back() # shared memory, too: each has less than the first layout planned, and what is planned now
{
    local before after real
    train halved -n 2 --replicas=2 --set=train.batch=32 --set=train.epochs=2 large.xml >memory.log || { cat memory.log; return 1; }
    before=$(grep '"event":"layout"' halved/metrics.jsonl | head -1 | sed -nE 's/.*"planned_bytes":([0-9]+).*/\1/p')
    after=$(list planned_bytes layout) real=$(list real_bytes resources)
    echo "planned $before, then $after, real $real"
    awk -F, -v before="$before" '{ exit !(NF == 4 && $1 < 0.5 * before && $2 < 0.5 * before && $3 < 0.6 * before &&
        $4 < 0.6 * before) }' <<<"$after,$real" && grep -E '^memory of ranks, MiB planned \(real\): [0-9.]+ \([0-9.]+\), [0-9]' memory.log
}
check "memory of all ranks is given back" ranks_give_back
finish
