#!/bin/bash
# What works, with 1 to 5 ranks, in shared memory, over MPI, and both at once.
. "$(dirname "$0")/lib.sh"
good() # N SHARED
{
    PTC_COMM_SHARED=$2 timeout 120 "$MPIEXEC" -n "$1" "$COMM_RANKS" good >"$work/out" 2>&1
    local code=$?
    cat "$work/out"
    [ $code = 0 ] && grep -q "^$1 ranks are good" "$work/out"
}
for n in 1 2 3 5; do
    check "$n ranks, shared memory" good $n 1
    check "$n ranks, messages" good $n 0
done
check_if_full "4 ranks, shared memory" good 4 1
check_if_full "4 ranks, messages" good 4 0
check_if_full "3 ranks, as if on hosts of two" good 3 2
check "4 ranks, as if on hosts of two" good 4 2
finish
