#!/bin/bash
# The cache of what frozen layers make, with texts of several lengths and rows on disk: whatever it holds, finds or has
# lost, the run is the one without it, to the bit.
. "$(dirname "$0")/lib.sh"
. "$ranks/texts.sh"
plain_kernels
sed 's|<input name="ids"|<freeze policy="schedule" alpha="0.25" keep="1"/><cache use="on"/>&|' model.xml >freezing.xml
small+=(--set=data.buckets="tokens: 8 12 16" --set=layers=4 --set=train.epochs=6 --set=train.lr=0.01
    --set=train.warmup_steps=0 --set=train.eval_every=1)
on_disk=(--set=cache.memory=1e-5 --set=cache.disk=0.01)

on() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" --deterministic --micro-batches=4 "${small[@]}" "$@" freezing.xml
}

go_on() # OUT STEP FLAG...: until that step
{
    local out=$1 step=$2 resume=--resume
    shift 2
    [ -d "$out" ] || resume=
    # shellcheck disable=SC2086 # one word or none
    $PTC --threads=1 --costs=model --comm-timeout=60 --out="$out" --max-steps="$step" $resume --deterministic \
        --micro-batches=4 "${small[@]}" "$@" freezing.xml
}

number() # OUT NAME STEP: of the resources at that step
{
    grep "\"step\":$3,\"event\":\"resources\"" "$1/metrics.jsonl" | tail -1 | sed -nE "s/.*\"cache_$2\":([0-9]+).*/\1/p"
}

at_least() # OUT NAME STEP MINIMUM
{
    local n
    n=$(number "$1" "$2" "$3")
    [ "$n" -ge "$4" ] || { echo "$2 at step $3: $n, not $4"; return 1; }
}

# ---- several lengths: 90 + 40 samples, of which some come with longer ones
transitions() # OUT
{
    grep '"event":"transition"' "$1/metrics.jsonl"
}
# With two rows in a run, hardly one is made alone; what is kept was made once.
made_once() # OUT
{
    local made runs
    made=$(number "$1" made 72) runs=$(number "$1" runs 72)
    [ "$made" = "$(number one memory_rows 72)" ] && [ $((runs * 2)) -le $((made + made / 8)) ] ||
        { echo "$made rows made in $runs runs, not $(number one memory_rows 72)"; return 1; }
}
in_memory()
{
    on one && [ "$(transitions one | grep -c '"cached":1')" -ge 3 ] && ! transitions one | grep '"cached":0' &&
        at_least one memory_rows 72 131 && at_least one hits 72 100 && made_once one
}
same_as_one() # FLAG...
{
    on again "$@" && same_run one again
}
check "one rank, three transitions" in_memory
check_if_full "--no-cache: the same bits" same_as_one --no-cache
in_bf16() { on again --precision=bf16 && on exact --precision=bf16 --no-cache && same_run again exact; }
check_if_full "bf16: the same bits" in_bf16
check "no room: the same bits" same_as_one --set=cache.memory=1e-5
one_length()
{
    on fixed --set=data.buckets="tokens: 24" && on again --set=data.buckets="tokens: 24" --no-cache && same_run fixed again
}
check_if_full "one length: the same bits" one_length
check "on disk: the same bits" same_as_one "${on_disk[@]}"
check "in memory and on disk, read ahead" same_as_one --set=cache.memory=1e-4 --set=cache.disk=0.01
nothing_left() { [ -d again/cache ] && [ -z "$(ls again/cache)" ]; }
check "nothing is left of a run that is over" nothing_left

# ---- what an earlier run has left on disk
stop() # OUT FLAG...: in the third epoch of the frozen layers; a run of the same flags is made once
{
    local kept="kept ${*:2}"
    rm -rf "$1"
    [ -d "$kept" ] || go_on "$kept" 56 "${on_disk[@]}" "${@:2}" && [ -n "$(ls "$kept"/cache)" ] && cp -rp "$kept" "$1"
}
ends_like() # OTHER OUT
{
    same_rows "$1" "$2" train && same_weights "$1" "$2"
}
finish_run() # OUT FLAG...: the rest, in parts whose ends tell what was found
{
    go_on "$1" 60 "${on_disk[@]}" "${@:2}" && go_on "$1" 1000 "${on_disk[@]}" "${@:2}"
}
found() # FLAG...
{
    stop part "$@" && finish_run part "$@" && at_least part disk_hits 60 16 && ends_like one part
}
check "found again" found
damaged()
{
    stop part || return
    for file in part/cache/*; do
        # all rows, not the head and the table
        head -c 8192 "$file" >kept && truncate -s "$(stat -c %s "$file")" kept && mv kept "$file"
    done
    go_on part 60 "${on_disk[@]}" >run.log 2>&1 || { cat run.log; return 1; }
    cat run.log
    [ "$(grep -c 'feature cache:.*damaged' run.log)" = 1 ] && at_least part corrupt 60 2 &&
        go_on part 1000 "${on_disk[@]}" && ends_like one part
}
check "damaged rows" damaged
cut_off()
{
    stop part || return
    truncate -s 100 part/cache/*
    finish_run part && ends_like one part
}
check_if_full "files cut off" cut_off

# Those of another run, under the names of this one's.
other_weights()
{
    local file others
    on two --set=train.seed=7 && stop other --set=train.seed=7 && stop part || return
    others=(other/cache/*)
    for file in part/cache/*; do
        cp "${others[0]}" "$file"
        others=("${others[@]:1}")
    done
    go_on part 60 "${on_disk[@]}" && [ "$(number part disk_hits 60)" = 0 ] && go_on part 1000 "${on_disk[@]}" &&
        ends_like one part && fails_with 1 same_rows one two
}
check_if_full "rows of other weights" other_weights
other_texts()
{
    stop part || return
    cp -p banking77/train.csv kept.csv
    cp -r part plain
    sed -i '2s/^[a-z]*/great/;60s/^[a-z]*/was/' banking77/train.csv
    ! cmp -s kept.csv banking77/train.csv && go_on part 60 "${on_disk[@]}" && [ "$(number part disk_hits 60)" = 0 ] &&
        go_on part 1000 "${on_disk[@]}" && rm -rf plain/cache && go_on plain 1000 --no-cache && ends_like plain part
    local code=$?
    mv kept.csv banking77/train.csv
    return $code
}
check_if_full "rows of other texts" other_texts
other_precision()
{
    stop part && go_on part 60 --precision=bf16 "${on_disk[@]}" && [ "$(number part disk_hits 60)" = 0 ]
}
check "rows of another precision" other_precision

# ---- several ranks share the stores
needs_ranks
check_if_full "2 stages" same_as_one -n 2 --stages=2
two_replicas() { same_as_one -n 2 --replicas=2 && made_once again; }
check_if_full "2 replicas" two_replicas
check_if_full "2 replicas, on disk" same_as_one -n 2 --replicas=2 "${on_disk[@]}"
check "2 replicas, read ahead" same_as_one -n 2 --replicas=2 --set=cache.memory=1e-4 --set=cache.disk=0.01
check_if_full "the planner's choices, 2 ranks" same_as_one -n 2
check "found again by 2 ranks" found -n 2
others_find()
{
    stop part -n 2 --replicas=2 && go_on part 60 "${on_disk[@]}" && at_least part disk_hits 60 16 &&
        go_on part 1000 -n 2 --stages=2 "${on_disk[@]}" && ends_like one part
}
check_if_full "found again on another layout" others_find
survives()
{
    rm -rf killed
    PTC_FAULT=kill:1:40 $PTC --threads=1 --costs=model --comm-timeout=60 --out=killed --max-restarts=1 -n 2 \
        --set=train.checkpoint_every=8 --deterministic --micro-batches=4 "${small[@]}" "${on_disk[@]}" freezing.xml &&
        ends_like one killed
}
check "a rank is lost" survives
finish
