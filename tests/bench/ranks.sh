#!/bin/bash
# The bench of one model on two ranks: ptc on one rank with two threads, on two replicas, on two stages, and PyTorch on
# two processes (DistributedDataParallel, torch.distributed.pipelining), alternately, medians of the rounds.
#
#   ranks.sh BUILD_DIR [MODEL...]        MODEL is vit or bert; both without one
#
# Environment: ROUNDS (3), TORCH_PYTHON (made by setup-torch.sh in BUILD_DIR/torch when absent), QUICK=1 for a few steps
# only (to see that everything works; the numbers mean nothing), TORCH=0 to leave PyTorch out, PTC (BUILD_DIR/bin/ptc).
#
# Writes BUILD_DIR/ranks-raw.jsonl (every measurement, tagged with who, layout and round) and, by ranks_report.py,
# BUILD_DIR/ranks-result.json; prints the tables. Exit code: 0, also when a target is missed, or 1 when something could
# not be measured.
set -Eeuo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
SOURCE=$(cd "$HERE/../.." && pwd)
BUILD=$(cd "${1:?usage: ranks.sh BUILD_DIR [MODEL...]}" && pwd)
shift
MODELS=${*:-vit bert}
ROUNDS=${ROUNDS:-3}
PTC=${PTC:-$BUILD/bin/ptc}
TORCH=${TORCH:-1}
TORCH_PYTHON=${TORCH_PYTHON:-$BUILD/torch/bin/torch-python}
RAW=$BUILD/ranks-raw.jsonl
ERRORS=$BUILD/ranks-stderr.txt
declare -A FILE=([vit]=vit-d192.xml [bert]=bert-base.xml)
declare -A STEPS=([vit]=20 [bert]=6) WARMUP=([vit]=5 [bert]=2)
if [ "${QUICK:-0}" = 1 ]; then
    ROUNDS=1
    STEPS=([vit]=3 [bert]=2) WARMUP=([vit]=1 [bert]=1)
fi

# What is measured in a round, in this order, so that what is compared is close in time: who, layout, and ptc's flags, or
# PyTorch's schedule and micro-batches (DistributedDataParallel has neither). Two threads in all. K, R and M are stages,
# replicas and micro-batches.
LAYOUTS="
ours  one           --threads=2
ours  R2            -n 2 --threads=1 --replicas=2
torch R2            - -
ours  R2-M4         -n 2 --threads=1 --replicas=2 --micro-batches=4
ours  one-M4        --threads=2 --micro-batches=4 --costs=measured
ours  K2-M4-gpipe   -n 2 --threads=1 --stages=2 --micro-batches=4 --schedule=gpipe
torch K2-M4-gpipe   gpipe 4
ours  K2-M4-1f1b    -n 2 --threads=1 --stages=2 --micro-batches=4 --schedule=1f1b
torch K2-M4-1f1b    1f1b 4
ours  K2-M4-zb-h1   -n 2 --threads=1 --stages=2 --micro-batches=4 --schedule=zb-h1
ours  one-M8        --threads=2 --micro-batches=8 --costs=measured
ours  K2-M8-1f1b    -n 2 --threads=1 --stages=2 --micro-batches=8 --schedule=1f1b
torch K2-M8-1f1b    1f1b 8
ours  K2-M8-zb-h1   -n 2 --threads=1 --stages=2 --micro-batches=8 --schedule=zb-h1
torch K2-M8-gpipe   gpipe 8
"

say()
{
    echo "ranks: $*" >&2
}

# record WHO LAYOUT ROUND: tags the JSON lines on stdin and appends them to the raw file
record()
{
    python3 -c '
import json, sys
who, layout, round_, model = sys.argv[1:5]
load = float(open("/proc/loadavg").read().split()[0])
n = 0
for line in sys.stdin:
    if line.startswith("{"):
        tags = {"who": who, "layout": layout, "round": int(round_), "model": model, "load": load}
        print(json.dumps(tags | json.loads(line)))
        n += 1
if n == 0: sys.exit(f"{who} gave no measurement of {model}, {layout}")' "$@" "$MODEL" >>"$RAW"
}

ours_run() # FLAGS...
{
    PTC_CACHE_DIR="$CACHE" "$PTC" bench --json --steps="${STEPS[$MODEL]}" --warmup="${WARMUP[$MODEL]}" "$@" \
        "$SOURCE/examples/bench/${FILE[$MODEL]}" 2>>"$ERRORS" | tail -n 1
}

torch_run() # FORMS STEPS SCHEDULE MICRO_BATCHES
{
    local flags=(--model "$MODEL" --forms "$1" --steps "$2" --warmup "${WARMUP[$MODEL]}")
    [ "$3" = - ] || flags+=(--schedule "$3" --micro-batches "$4")
    "$TORCH_PYTHON" "$HERE/torch_ranks.py" "${flags[@]}" 2>>"$ERRORS"
}

# fastest KIND: the fastest form of PyTorch's ddp or pipe here, measured for half as many steps
fastest()
{
    torch_run "$1-all" $((STEPS[$MODEL] / 2)) - - | tee "$BUILD/ranks-forms.jsonl" | record torch-form "$1" 0
    python3 -c '
import json, sys
rows = [r for r in map(json.loads, sys.stdin) if "error" not in r]
print(min(rows, key=lambda r: r["median_ms"])["form"])' <"$BUILD/ranks-forms.jsonl"
}

if [ "$TORCH" = 1 ] && [ ! -x "$TORCH_PYTHON" ]; then
    "$HERE/setup-torch.sh" "$(dirname "$(dirname "$TORCH_PYTHON")")" >&2
fi
: >"$RAW"
: >"$ERRORS"
CACHE=$(mktemp -d)
trap 'rm -rf "$CACHE"' EXIT
trap 'say "failed; $ERRORS may say why"' ERR

awk -v n="$(nproc)" '$1 > 0.25 * n { print "ranks: WARNING: load " $1 " before the start: noisy numbers" }' \
    /proc/loadavg >&2

declare -A PEER
for MODEL in $MODELS; do
    [ "$TORCH" = 1 ] || continue
    for kind in ddp pipe; do
        PEER[$MODEL-$kind]=$(fastest $kind)
        say "$MODEL: the fastest form of PyTorch is ${PEER[$MODEL-$kind]}"
    done
done

for ((round = 1; round <= ROUNDS; round++)); do
    for MODEL in $MODELS; do
        say "round $round of $ROUNDS: $MODEL"
        while read -r who layout arguments; do
            # shellcheck disable=SC2086 # arguments are several words
            case $who in
            ours) ours_run $arguments </dev/null | record ours "$layout" "$round" ;;
            torch)
                [ "$TORCH" = 1 ] || continue
                kind=pipe
                [ "$layout" != R2 ] || kind=ddp
                torch_run "${PEER[$MODEL-$kind]}" "${STEPS[$MODEL]}" $arguments </dev/null |
                    record torch "$layout" "$round"
                ;;
            esac
        done <<<"$LAYOUTS"
    done
done

python3 "$HERE/ranks_report.py" "$RAW" "$BUILD/ranks-result.json"
