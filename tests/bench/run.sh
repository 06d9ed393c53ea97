#!/bin/bash
# The bench: ptc and PyTorch alternately on the same machine in the same run (A B A B A B), medians of the rounds.
# shellcheck disable=SC2016,SC2034 # OURS is expanded by eval, which uses the variables that look unused
#
#   run.sh BUILD_DIR [MODEL...]          MODEL is vit or bert; both without one
#
# Environment: ROUNDS (3), THREADS (2), TORCH_PYTHON (made by setup-torch.sh in BUILD_DIR/torch when absent), OURS (below),
# EXTRA=0 to leave out compile and bf16, ONLY_TORCH=1 to measure the baseline alone, MAX_RATIO to fail above it.
#
# Writes BUILD_DIR/bench-raw.jsonl (every measurement, tagged with who and round) and, by report.py,
# BUILD_DIR/bench-result.json; prints the table. Exit code: 0, or 1 when something could not be measured.
set -Eeuo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
SOURCE=$(cd "$HERE/../.." && pwd)
BUILD=$(cd "${1:?usage: run.sh BUILD_DIR [MODEL...]}" && pwd)
shift
MODELS=${*:-vit bert}
ROUNDS=${ROUNDS:-3}
THREADS=${THREADS:-2}
TORCH_PYTHON=${TORCH_PYTHON:-$BUILD/torch/bin/torch-python}
RAW=$BUILD/bench-raw.jsonl
declare -A FILE=([vit]=vit-d192.xml [bert]=bert-base.xml)
declare -A STEPS=([vit]=20 [bert]=6) WARMUP=([vit]=5 [bert]=2)

# HOOK: the one place that knows how ptc is called. It must print one JSON object on its last line with
#   median_ms min_ms max_ms steps loss          of whole steps after warm-up
#   compile_ms                                  XML to ready; cold in the first round (empty $CACHE), warm afterwards
#   peak_predicted_mib peak_real_mib            planned by the compiler, and the process's high-water mark
# Expanded by eval for each run with $MODEL, $n_steps, $n_warmup, $THREADS and $CACHE set.
OURS=${OURS:-'PTC_CACHE_DIR="$CACHE" "$BUILD/bin/ptc" bench --json --threads="$THREADS" --steps="$n_steps" --warmup="$n_warmup" "$SOURCE/examples/bench/${FILE[$MODEL]}"'}

# record WHO ROUND MODEL: tags the JSON lines on stdin and appends them to the raw file
record()
{
    python3 -c '
import json, sys
who, round_, model = sys.argv[1:4]
load = float(open("/proc/loadavg").read().split()[0])
n = 0
for line in sys.stdin:
    if line.startswith("{"):
        print(json.dumps({"who": who, "round": int(round_), "model": model, "load": load} | json.loads(line)))
        n += 1
if n == 0: sys.exit(f"{who} gave no measurement of {model}")' "$@" >>"$RAW"
}

torch_run() # VARIANTS STEPS
{
    "$TORCH_PYTHON" "$HERE/torch_baseline.py" --model "$MODEL" --variant "$1" --threads "$THREADS" --steps "$2" \
        --warmup "${WARMUP[$MODEL]}" --json 2>>"$BUILD/bench-stderr.txt"
}

ours_run()
{
    local n_steps=${STEPS[$MODEL]} n_warmup=${WARMUP[$MODEL]}
    eval "$OURS" 2>>"$BUILD/bench-stderr.txt" | tail -n 1
}

gemm_peak()
{
    OMP_NUM_THREADS=$THREADS "$BUILD/gemm_peak" 2 | record peak "$1" ""
}

say()
{
    echo "bench: $*" >&2
}

[ -x "$TORCH_PYTHON" ] || "$HERE/setup-torch.sh" "$(dirname "$(dirname "$TORCH_PYTHON")")" >&2
"${CC:-cc}" -std=gnu11 -O2 -o "$BUILD/gemm_peak" "$HERE/gemm_peak.c" -ldnnl
: >"$RAW"
: >"$BUILD/bench-stderr.txt"
CACHE=$(mktemp -d)
trap 'rm -rf "$CACHE"' EXIT
trap 'say "failed; $BUILD/bench-stderr.txt may say why"' ERR

# Spinning OpenMP threads on a machine with other work lose a factor of up to ten; say it rather than report it as ours.
awk -v n="$(nproc)" '$1 > 0.25 * n { print "bench: WARNING: load " $1 " before the start; the numbers will be noisy" }' /proc/loadavg >&2

# Which form of eager PyTorch is the fastest here: that one is the peer.
declare -A PEER
for MODEL in $MODELS; do
    torch_run eager-all $((STEPS[$MODEL] / 2)) | tee "$BUILD/bench-eager.jsonl" | record torch-eager-form 0 "$MODEL"
    PEER[$MODEL]=$(python3 -c '
import json, sys
rows = [r for r in map(json.loads, sys.stdin) if "error" not in r]
print(min(rows, key=lambda r: r["median_ms"])["variant"])' <"$BUILD/bench-eager.jsonl")
    say "$MODEL: the fastest eager form is ${PEER[$MODEL]}"
done

for ((round = 1; round <= ROUNDS; round++)); do
    gemm_peak "$round"
    for MODEL in $MODELS; do
        say "round $round of $ROUNDS: $MODEL"
        [ "${ONLY_TORCH:-0}" = 1 ] || ours_run | record ours "$round" "$MODEL"
        torch_run "${PEER[$MODEL]}" "${STEPS[$MODEL]}" | record torch-eager "$round" "$MODEL"
    done
done

if [ "${EXTRA:-1}" = 1 ]; then
    for MODEL in $MODELS; do
        say "$MODEL: compiled and bf16"
        torch_run compile,bf16,bf16-compile $((STEPS[$MODEL] / 2)) | record torch-extra 0 "$MODEL"
    done
fi

python3 "$HERE/report.py" "$RAW" "$BUILD/bench-result.json" ${MAX_RATIO:+--max-ratio "$MAX_RATIO"}
