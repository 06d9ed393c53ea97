#!/bin/bash
# Puts programs with known verdicts through CTest and the counter of tools/, and compares the counts and exit status.
# usage: PTC_SOURCE_DIR=... runner_can_fail.sh KNOWN_CASES_PROGRAM
set -uo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
unset CTEST_OUTPUT_ON_FAILURE
failures=0

# expect STATUS "LAST LINE" "TEXT IN THE OUTPUT" test...; a test is a group of known_cases, or skip77, missing, slow
expect()
{
    local want_status=$1 want_line=$2 want_text=$3 test
    shift 3
    rm -rf -- *
    for test in "$@"; do
        case $test in
        skip77) printf 'add_test(skip77 sh -c "echo SKIP: no GPU; exit 77")\n' ;;
        missing) printf 'add_test(missing /nonexistent/program)\n' ;;
        slow) printf 'add_test(slow sleep 20)\nset_tests_properties(slow PROPERTIES TIMEOUT 1)\n' ;;
        *) printf 'add_test(%s "%s" %s)\n' "$test" "$program" "$test" ;;
        esac
        [ "$test" != skip77 ] || printf 'set_tests_properties(skip77 PROPERTIES SKIP_RETURN_CODE 77)\n'
    done >CTestTestfile.cmake
    ctest --output-junit "$work/known.xml" --test-output-size-passed 1000000 >/dev/null 2>&1
    awk -f "$PTC_SOURCE_DIR/tools/count-tests.awk" known.xml >out
    local status=$?
    if [ $status != "$want_status" ] || [ "$(tail -1 out)" != "$want_line" ] || ! grep -qF -- "$want_text" out; then
        echo "FAIL: $*: expected exit $want_status, '$want_text' and '$want_line'; got exit $status and"
        cat out
        failures=$((failures + 1))
    fi
}

expect 0 "2 passed, 0 failed, 0 skipped" "" pass
expect 1 "3 passed, 2 failed, 0 skipped" "failed: known: fail" pass fail
expect 0 "1 passed, 0 failed, 1 skipped" "skipped: 1 x no <device> number 7" skip
expect 0 "2 passed, 0 failed, 1 skipped" "skipped: 1 x no GPU" pass skip77
expect 1 "1 passed, 2 failed, 0 skipped" "returned 0" liar
expect 1 "2 passed, 1 failed, 0 skipped" "failed: known: crash" pass crash
expect 1 "2 passed, 1 failed, 0 skipped" "failed: known: missing" pass missing
expect 1 "2 passed, 1 failed, 0 skipped" "failed: known: slow" pass slow
expect 1 "0 passed, 0 failed, 1 skipped" "" skip77

echo "BUILD FAILED: preset release" >release.xml
if awk -f "$PTC_SOURCE_DIR/tools/count-tests.awk" release.xml >out; then
    echo "FAIL: a build that failed counts as success"
    failures=$((failures + 1))
fi
[ $failures = 0 ]
