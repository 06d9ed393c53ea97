#!/bin/bash
# Builds and tests, and counts: the one place that decides whether the tree is good.
# usage: run-tests.sh [all | PRESET...]    `all` (the default) is what `make test` runs:
#   release: gcc, all tests       asan: all tests but `noasan`       clang: the `quick` tests       format
# The last line is "N passed, N failed, N skipped"; the exit status is 0 only when nothing failed.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- all
if [ "$1" = all ]; then set -- release asan clang format; fi
jobs=$(nproc)

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

export CTEST_OUTPUT_ON_FAILURE=1
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}

# Where the clang build stops: a second compiler checks warnings and the quick tests, not every long run again.
select_tests()
{
    case $1 in
    clang) echo "-L quick" ;;
    asan) echo "-LE noasan" ;;
    tsan) echo "-L threads" ;;
    esac
}

for config in "$@"; do
    started=$SECONDS
    echo "== $config"
    if [ "$config" = format ]; then
        # counted as one test
        if tools/format.sh --check; then status=run; else status=fail; fi
        printf '<testcase name="clang-format" status="%s">\n</testcase>\n' $status >"$results/format.xml"
        continue
    fi
    if ! tools/build.sh "$config" >"$results/build.log" 2>&1; then
        tail -60 "$results/build.log"
        echo "BUILD FAILED: preset $config" >"$results/$config.xml"
        continue
    fi
    # shellcheck disable=SC2046 # the selection is words
    ctest --test-dir "build/$config" -j "$jobs" $(select_tests "$config") --no-tests=error \
        --output-junit "$results/$config.xml" --test-output-size-passed 1000000000 --test-output-size-failed 1000000000
    [ -s "$results/$config.xml" ] || echo "BUILD FAILED: ctest wrote no results" >"$results/$config.xml"
    echo "== $config took $((SECONDS - started)) s"
done

echo "== summary"
awk -f tools/count-tests.awk "$results"/*.xml
