#!/bin/bash
# ptc --device=cuda on mocks of CUDA's libraries: it trains as the cpu device does, and what is missing or fails is told
# with the exit codes of docs/cli.md.
. "$(dirname "$0")/../e2e/lib.sh"
tiny=$fixtures/vit-tiny.xml
mocks=$PTC_CUDA_PATH

# CODE TEXT COMMAND...: the exit code, and TEXT on standard error
says()
{
    local want=$1 text=$2 have
    shift 2
    "$@" >out.log 2>err.log
    have=$?
    [ $have = "$want" ] && grep -qF -- "$text" err.log && return
    echo "exit code $have, not $want, or no '$text': $*"
    cat out.log err.log
    return 1
}

# ---- what is missing
mkdir none no-nvrtc
ln -s "$mocks/libcuda.so.1" "$mocks/libcublasLt.so.13" no-nvrtc
check "no driver" says 3 "needs an NVIDIA driver" env PTC_CUDA_PATH=none $PTC "$tiny" --device=cuda
check "driver too old" says 3 "supports CUDA 11.4" env MOCK_CUDA_VERSION=11040 $PTC "$tiny" --device=cuda
check "no NVRTC" says 3 "needs NVRTC" env PTC_CUDA_PATH=no-nvrtc $PTC "$tiny" --device=cuda
check "no such index" says 3 "the last one is cuda:1" $PTC "$tiny" --device=cuda:2
check "no number" says 2 "a number from 0 on is wanted" $PTC "$tiny" --device=cuda:first
check "a check needs no device" env PTC_CUDA_PATH=none $PTC check "$tiny"

# ---- --emit needs NVRTC only
mkdir only-nvrtc
ln -s "$mocks/libnvrtc.so.13" only-nvrtc
emit="env PTC_CUDA_PATH=only-nvrtc $PTC $tiny"
emits_ptx()
{
    $emit --emit=ptx --arch=sm_80 -o tiny.ptx && $PTC "$tiny" --emit=cuda | cmp - tiny.ptx # the mock's PTX is the text
}
check "PTX without a driver" emits_ptx
check "PTX for the GPU here" $PTC "$tiny" --emit=ptx
check "no NVRTC: no PTX" says 3 "compiling CUDA kernels needs NVRTC" env PTC_CUDA_PATH=none $PTC "$tiny" --emit=ptx --arch=sm_80
check "no GPU: which architecture" says 2 "--arch=sm_NN is wanted" $emit --emit=ptx
check "unknown architecture" says 3 "does not know sm_70" $emit --emit=cubin --arch=sm_70
check "no architecture" says 2 "not 'ampere'" $emit --emit=cubin --arch=ampere
check "an architecture of IR" says 2 "--arch goes with" $PTC "$tiny" --emit=ir --arch=sm_80
check "an architecture to run" says 2 "--arch goes with" $PTC "$tiny" --arch=sm_80

if ! command -v "${CXX:-c++}" >/dev/null; then
    skip "no C++ compiler: the mock of NVRTC cannot compile"
    finish
    exit
fi

# ---- failures
train="$PTC $tiny --device=cuda --max-steps=2"
check "does not fit" says 5 "does not fit into the memory of device 'cuda': taking 1.0 MiB for a buffer" env MOCK_CUDA_MEMORY=1000000 $train
told_before_the_first_step()
{
    grep -qF "A smaller batch or more micro-batches" err.log && ! grep -q "step" out.log
}
check "before the first step" told_before_the_first_step
check "a launch fails, with its place" says 3 "transformer.xml:" env MOCK_CUDA_FAIL=cuLaunchKernel:5:719 $train
check "the device is lost" says 3 "the device is lost to this process" env MOCK_CUDA_FAIL=cuStreamSynchronize:1+:719 $train
check "NVRTC refuses" says 3 "NVRTC refused the generated kernels" \
    env PTC_CACHE_DIR="$work/empty" MOCK_CUDA_FAIL=nvrtcCompileProgram:1:6 $train

# ---- training
agree() # MODEL BOUND FLAG...: the flags are for the GPU
{
    local model=$1 bound=$2
    shift 2
    rm -rf cpu cuda
    $PTC "$model" --out=cpu --max-steps=3 --threads=1 && $PTC "$model" --out=cuda --max-steps=3 --device=cuda "$@" &&
        $COMPARE curves cpu/metrics.jsonl cuda/metrics.jsonl "$bound"
}
check "vit trains" agree "$tiny" 1e-5
check "vit trains in bf16" agree "$tiny" 5e-3 --precision=bf16
check "vit trains in tf32" agree "$tiny" 1e-5 --precision=tf32 # the mock does not round
check "dropout trains" agree "$e2e/dropout.xml" 1e-5
pytorch() # its losses over 20 steps, as tests/e2e/parity.sh has them for the cpu device
{
    local fixture=$fixtures/vit_losses.json settings
    settings=$($COMPARE settings "$fixture" adamw) || return
    rm -rf parity
    # shellcheck disable=SC2086 # the settings are words
    $PTC "$tiny" --device=cuda --weights="$fixtures/$($COMPARE init "$fixture")" --out=parity $settings &&
        $COMPARE losses "$fixture" adamw parity/metrics.jsonl 1e-5
}
check "vit has the losses of PyTorch" pytorch
apart()
{
    $PTC "$tiny" --out=seed2 --max-steps=3 --seed=2 && fails_with 1 $COMPARE curves cuda/metrics.jsonl seed2/metrics.jsonl 1e-5
}
check "another model is seen" apart
again()
{
    $PTC "$tiny" --device=cuda --max-steps=1 | grep "from the cache"
}
check "kernels come from the cache" again
# Graphs read what changes from step to step on the device; with numbers that were baked in, the curve is another.
one_by_one()
{
    MOCK_CUDA_FAIL=cuStreamBeginCapture_v2:1+:900 $PTC "$e2e/dropout.xml" --out=launches --max-steps=3 --device=cuda --no-graphs &&
        same_rows cuda launches
}
check "graphs change nothing" one_by_one
baked_in()
{
    MOCK_CUDA_BAKED=1 $PTC "$e2e/dropout.xml" --out=baked --max-steps=3 --device=cuda &&
        fails_with 1 $COMPARE curves cuda/metrics.jsonl baked/metrics.jsonl 1e-4
}
check "a learning rate that is baked in is seen" baked_in
# Kernels, contractions and graphs are made again when layers freeze.
freezes()
{
    local flags="--set=freeze.policy=schedule --set=freeze.alpha=0.5 --set=train.epochs=2 --set=cache.use=on --set=data.train_limit=36" tied=$PTC_SOURCE_DIR/tests/ranks/tied.xml
    # shellcheck disable=SC2086 # the flags are words
    $PTC "$tied" $flags --out=frozen --device=interp && $PTC "$tied" $flags --out=cuda-frozen --device=cuda &&
        [ "$(grep -c '"event":"transition"' cuda-frozen/metrics.jsonl)" -ge 1 ] &&
        $COMPARE curves frozen/metrics.jsonl cuda-frozen/metrics.jsonl 1e-4
}
check "layers that freeze" freezes
check "a graph does not fit" says 5 "recording @train (ops 1 to " env MOCK_CUDA_FAIL=cuGraphInstantiateWithFlags:1:2 $train
bench()
{
    $PTC bench "$tiny" --device=cuda --steps=1 --warmup=1 --json | grep -q '"'
}
check "bench" bench
# ---- several ranks, by NCCL and through mirrors on the host: the bits of one; none takes what another has measured
export MOCK_CUDA_ORDERS=8
export TMPDIR=$work
rank_rows() # OUT FLAG...
{
    local out=$1
    shift
    rm -rf "$out"
    $PTC "$tiny" --device=${gpu:-cuda} --deterministic --micro-batches=4 --costs=model --max-steps=3 --out="$out" "$@" >out.log &&
        grep -oE '"loss":[-0-9.e]+' "$out/metrics.jsonl" >"$out.rows"
}
same_ranks() # WAY FLAG...
{
    local way=$1
    shift
    rank_rows many "$@" && cat out.log && grep -q "^GPUs exchange $way" out.log && [ "$(wc -l <many.rows)" -ge 4 ] &&
        diff one.rows many.rows && same_weights one many
}
ends_in_time() # names the rank that sleeps, and writes down what it did
{
    MOCK_CUDA_ASYNC=1 PTC_FAULT=sleep:1:2 says 6 "for rank 1 (host" $PTC "$tiny" --device=cuda --deterministic \
        --micro-batches=4 --costs=model --max-steps=3 -n 2 --replicas=2 --comm-timeout=1 --out=asleep &&
        grep -q "all_reduce bucket 0 .*transformer.xml\|all_reduce bucket 0 .*vit-tiny.xml" err.log && [ -s asleep/rank-0.json ]
}
if [ -z "${RANKS_PLUGIN:-}" ]; then
    skip "no MPI: several ranks"
else
    one_rank() { MOCK_CUDA_NAME="Other GPU" rank_rows one; }
    check "one rank, 4 micro-batches" one_rank
    one_gpu() { gpu=cuda:0 same_ranks "through memory of the host: ranks 0 and 1 share one" -n 2 --stages=2 --costs=measured; }
    old_nccl() { MOCK_NCCL_VERSION=21703 same_ranks "through memory of the host: rank 0: .* is 2.17" -n 2 --replicas=2; }
    by_nccl() { MOCK_CUDA_ASYNC=1 MOCK_CUDA_DEVICES=4 same_ranks "by NCCL" -n 4 --stages=2 --replicas=2 --costs=measured; }
    check "2 stages on one GPU, costs measured" one_gpu
    check "2 replicas, NCCL is too old" old_nccl
    check "2 stages of 2 replicas by NCCL, costs measured" by_nccl
    check "a rank that sleeps" ends_in_time
fi

# ---- layers freeze; what they make is read by a thread, and copied while the step before runs
elastic_rows() # OUT FLAG...
{
    local out=$1
    shift
    rm -rf "$out"
    $PTC "${model:-$PTC_SOURCE_DIR/tests/ranks/tied.xml}" --device=cuda --set=layers=2 --set=train.epochs=3 --set=train.eval_every=1 \
        --set=freeze.policy=schedule --set=freeze.alpha=0.5 --set=cache.use=on --deterministic --micro-batches=4 \
        --costs=model --out="$out" "$@" &&
        grep -oE '"loss":[-0-9.e]+' "$out/metrics.jsonl" >"$out.rows"
}
cached_alike()
{
    elastic_rows cached && elastic_rows plain --no-cache && grep -q '"event":"transition".*"cached":1' cached/metrics.jsonl &&
        grep -q '"cache_hits":[1-9]' cached/metrics.jsonl && diff cached.rows plain.rows
}
check "cached layers: the same bits" cached_alike
# From two stages to a single one: what moves goes from GPU to GPU, and what stays is not touched.
sed 's|<train |<cluster planner="paper"/>\n  <train |' "$PTC_SOURCE_DIR/tests/ranks/tied.xml" >paper.xml
moved() # OUT FIELD: of all transitions
{
    grep '"event":"transition"' "$1/metrics.jsonl" | grep -oE "\"$2\":[^,}]*" | cut -d: -f2
}
copied() # what the device is asked for between two programs, by kind, of all ranks
{
    awk '/^cuModuleUnload/ { split("", n); inside = 1 } { n[$1] += $2 } /^cuModuleLoadData/ && inside {
        for (kind in n) sum[kind] += n[kind]; inside = 0; between++ }
        END { print "sent", sum["ncclSend"] + 0, "host", sum["cuMemcpyHtoDAsync_v2"] + sum["cuMemcpyDtoHAsync_v2"],
        "device", sum["cuMemcpyDtoDAsync_v2"] + 0 }' log-*
}
elastic_by_nccl()
{
    MOCK_CUDA_ASYNC=1 MOCK_CUDA_LOG=$work/log- MOCK_CUDA_LOG_ONLY=cuMemcpy:cuModuleUnload:cuModuleLoad:ncclSend \
        elastic_rows gpus -n 2 && [ "$(moved gpus stages | tr '\n' ' ')" = "1 1 " ] &&
        [ "$(moved gpus moved_by | sort -u)" = '"nccl"' ] && diff cached.rows gpus.rows && same_weights cached gpus &&
        copied && [ "$(copied)" = "sent $(moved gpus moved_bytes | awk '{ n += $1 } END { print n }') host 0 device 0" ]
}
elastic_by_host() # one GPU for both
{
    elastic_rows shared -n 2 --device=cuda:0 && [ "$(moved shared moved_by | sort -u)" = '"host"' ] &&
        diff cached.rows shared.rows && same_weights cached shared
}
elastic_lost() # a rank ends while the other one moves tensors; what is left goes on from the last checkpoint
{
    MOCK_CUDA_ASYNC=1 PTC_FAULT=transition:1:10 elastic_rows lost -n 2 --max-restarts=1 --set=train.checkpoint_every=5 &&
        grep -A 10 '"op": "move"' lost/rank-0.json | grep '"state": "started"' && grep '"reason": ".*lost rank 1 ' lost/rank-0.json &&
        same_rows cached lost train && same_weights cached lost
}
elastic_without_room() # for all on one rank
{
    MOCK_CUDA_ASYNC=1 MOCK_CUDA_MEMORY=${ROOM:-160000}:0 elastic_rows small -n 2 --no-replicate --no-cache && diff cached.rows small.rows &&
        moved small stages && grep -o '"plan_why":"kept: for another plan rank 0 would need .* MiB on its device' small/metrics.jsonl
}
if [ -n "${RANKS_PLUGIN:-}" ]; then
    model=$work/paper.xml
    check "two stages become one by NCCL: the same bits" elastic_by_nccl
    check "two stages on one GPU become one" elastic_by_host
    check "a rank is lost in a transition" elastic_lost
    check "no room for the next plan: the one before stays" elastic_without_room
fi
finish
