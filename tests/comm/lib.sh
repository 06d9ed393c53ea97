# What the tests of several ranks share; sourced with COMM_RANKS, MPIEXEC (empty: no MPI) and COMM_SANITIZED set.
#   work          a scratch folder, removed at the end
#   ranks N ...   comm_ranks under mpirun as N ranks, more than there are cores, as root too
#   check, check_if_full, at_once, finish: tests/harness/check.sh
set -uo pipefail
: "${COMM_RANKS:?}"
if [ -z "${MPIEXEC:-}" ]; then
    echo "SKIP: built without MPI"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "${PTC_SOURCE_DIR:?}/tests/harness/check.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none
# no rank is ended by mpirun because another one was: that the ranks do themselves is what is tested
export OMPI_MCA_orte_enable_recovery=1
# Open MPI does not free all that it allocates
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0

ranks()
{
    local n=$1
    shift
    "$MPIEXEC" -n "$n" "$COMM_RANKS" "$@"
}
