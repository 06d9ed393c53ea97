#!/bin/bash
# The exit codes of docs/cli.md, each reached in the ways that a user reaches them, and what is left behind.
. "$(dirname "$0")/lib.sh"
tiny=$fixtures/vit-tiny.xml
model=$e2e/dropout.xml

# CODE TEXT COMMAND...: the exit code, and TEXT on standard error
says()
{
    local want=$1 text=$2 have
    shift 2
    "$@" >out.log 2>err.log
    have=$?
    [ $have = "$want" ] && { [ -z "$text" ] || grep -qF -- "$text" err.log; } && return
    echo "exit code $have, not $want, or no '$text': $*"
    cat out.log err.log
    return 1
}

# ---- 0
check "0: version" says 0 "" $PTC --version
check "0: help" says 0 "" $PTC --help
for command in run check eval bench opt ops schema; do
    check "0: $command --help" says 0 "" $PTC $command --help
done
check "0: check" says 0 "" $PTC check "$tiny"
check "0: ops" says 0 "" $PTC ops
check "0: schema" says 0 "" $PTC schema
check "0: bench" says 0 "" $PTC bench "$tiny" --steps=2 --warmup=1 --json
check "0: emit" says 0 "" $PTC "$tiny" --emit=ir -o vit.ptir
check "0: opt" says 0 "" $PTC opt vit.ptir -o again.ptir --passes=

# ---- 1: the model or the data is wrong
sed 's/<loss\/>/<los\/>/' "$fixtures/vit-tiny.xml" >broken.xml
check "1: unknown element" says 1 "broken.xml" $PTC broken.xml
check "1: no such model" says 1 "nowhere.xml" $PTC nowhere.xml
check "1: no such data" says 1 "nowhere.idx" $PTC "$tiny" --set=data.images.train=nowhere.idx
check "1: not an IR module" says 1 "broken.xml" $PTC opt broken.xml
check "1: weights of another model" says 1 "" $PTC "$tiny" --weights="$fixtures/rope_init.safetensors"
check "1: no such weights" fails_with 1 $PTC "$tiny" --weights=nowhere.safetensors

# ---- 2: the command line is wrong
check "2: nothing" says 2 "usage" $PTC
check "2: unknown flag" says 2 "did you mean --threads" $PTC "$tiny" --treads=2
check "2: flag of another command" says 2 "--resume" $PTC check "$tiny" --resume
check "2: not a number" says 2 "--threads" $PTC "$tiny" --threads=two
check "2: no value" says 2 "wants a value" $PTC "$tiny" --out
check "2: two models" says 2 "one file" $PTC "$tiny" "$tiny"
check "2: resume without out" says 2 "--out" $PTC "$tiny" --resume
check "2: eval of nothing" says 2 "--weights" $PTC eval "$tiny"
check "2: unknown emit" says 2 "--emit" $PTC "$tiny" --emit=rust
check "2: unknown device" says 2 "tpu" $PTC "$tiny" --device=tpu
check "2: no random samples" says 2 "--synthetic" $PTC "$tiny" --synthetic=0

# ---- 3: the world failed
check "3: no compiler" says 3 "" env PTC_CC=/bin/false PTC_CACHE_DIR="$work/no-cache" $PTC "$tiny" --max-steps=1
: >a-file
check "3: out is a file" says 3 "a-file" $PTC "$tiny" --max-steps=1 --out=a-file/out
check "3: full disk" says 3 "/dev/full" $PTC "$tiny" --emit=c -o /dev/full

# ---- 4: non-finite numbers
# Some steps are done before the loss is not a number; the checkpoint before it is kept, and nothing is written after it.
explodes() # LEARNING_RATE
{
    local step huge="--set=train.optimizer=sgd --set=train.lr=$1 --set=train.clip_norm=0 --set=train.schedule=constant
        --set=train.warmup_steps=0 --set=train.weight_decay=0 --set=train.checkpoint_every=1 --set=train.momentum=0.9"
    rm -rf exploded before
    # shellcheck disable=SC2086
    says 4 "nothing was updated" $PTC "$tiny" --out=exploded $huge || return
    step=$(sed -n 's/.*"split":"event","step":\([0-9]*\),"event":"non_finite".*/\1/p' exploded/metrics.jsonl)
    [ "${step:-0}" -ge 2 ] || { echo "no non_finite row after a step"; cat exploded/metrics.jsonl; return 1; }
    [ "$(rows exploded/metrics.jsonl train | wc -l)" = $((step - 1)) ] || { echo "rows after step $step"; return 1; }
    # shellcheck disable=SC2086
    $PTC "$tiny" --out=before $huge --max-steps=$((step - 1)) && same_weights before exploded &&
        $COMPARE finite "$(last_checkpoint exploded)/model.safetensors"
}
# The first gradient is not finite although the loss is: the weights are lost, a checkpoint of them must not be written.
overflows() # FLAG...
{
    rm -rf overflown
    says 4 "'shift' with numbers that are not finite" $PTC "$e2e/overflow.xml" --out=overflown "$@" &&
        [ -z "$(ls overflown/checkpoints 2>/dev/null)" ]
}
check "4: explodes" explodes 100
check "4: weights overflow" overflows
check "4: weights overflow in the last step" overflows --set=train.checkpoint_every=0 --max-steps=1

# ---- 5: out of memory
memory()
{
    (
        ulimit -v 400000 || exit 77
        says 5 "memory" $PTC "$tiny" --set=hidden=2000000 --device=cpu
    )
}
if [ -n "${E2E_SANITIZED:-}" ]; then
    skip "AddressSanitizer reserves more address space than the limit"
else
    check "5: out of memory" memory
fi

# ---- 75: stopped by a signal
# A run too long to end by itself, stopped when it has done some steps; then the whole again in one go.
stopped() # SIGNAL
{
    local pid code step n=0 long="--set=train.epochs=1000000 --set=train.eval_every=0 --set=train.schedule=constant"
    rm -rf stopped straight
    # shellcheck disable=SC2086
    $PTC "$model" --out=stopped $long >stopped.log 2>&1 &
    pid=$!
    until [ "$(grep -c '"train"' stopped/metrics.jsonl 2>/dev/null)" -ge 5 ] 2>/dev/null || [ $((n += 1)) -gt 1200 ]; do
        sleep 0.05
    done
    kill -"$1" $pid
    wait $pid
    code=$?
    [ $code = 75 ] || { echo "exit code $code"; cat stopped.log; return 1; }
    step=$(sed -n 's/.*stopped by a signal at step \([0-9]*\); the checkpoint is written/\1/p' stopped.log)
    [ -d "stopped/checkpoints/step-$(printf %08d "${step:-0}")" ] || { cat stopped.log; return 1; }
    # shellcheck disable=SC2086
    $PTC "$model" --out=stopped $long --resume --max-steps=$((step + 5)) &&
        $PTC "$model" --out=straight $long --max-steps=$((step + 5)) && same_rows straight stopped train &&
        same_weights straight stopped
}
for name in TERM INT USR1; do
    check "75: SIG$name" stopped $name
done
finish
