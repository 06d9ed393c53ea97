#!/bin/bash
# Runs every libFuzzer target under ASan and UBSan. RUNS is the number of executions of each (1,000,000);
# new inputs are kept in build/fuzz/corpus, the committed corpora in tests/fuzz/corpus/TARGET are the seeds.
# usage: fuzz.sh [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-1000000}
tools/build.sh fuzz
if [ $# = 0 ]; then
    mapfile -t targets < <(find build/fuzz/bin -maxdepth 1 -name 'fuzz_*' -executable -printf '%f\n' | sort)
    set -- "${targets[@]}"
fi
[ $# -gt 0 ] || { echo "no fuzz targets were built" >&2; exit 1; }
for target in "$@"; do
    found=build/fuzz/corpus/$target
    seeds=tests/fuzz/corpus/$target
    mkdir -p "$found" build/fuzz/crashes
    [ -d "$seeds" ] || { echo "$target has no seeds in $seeds" >&2; exit 1; }
    echo "== $target, $runs runs"
    "build/fuzz/bin/$target" -runs="$runs" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/crashes/$target-" "$found" "$seeds"
done
