# What the tests of one model on several ranks share, on top of tests/e2e/lib.sh.
#   needs_ranks    skips the rest where no several ranks can run
#   train OUT FLAG... MODEL    a run with small kernels and no surprises: one thread a rank, modelled costs
#   same_run OUT OUT           what must not depend on the layout: the one comparison of all these tests
#   plain_kernels              from here on without optimisation: most of the time of small runs is the C compiler's
. "$(dirname "$0")/../e2e/lib.sh"
ranks=$PTC_SOURCE_DIR/tests/ranks
tied=$ranks/tied.xml
export TMPDIR=$work # the launcher's run folders
for name in $(env | grep -oE '^(OMPI_|PMI_|PMIX_|MPI_|SLURM_|PTC_LAUNCH_|PTC_MPIRUN|PTC_FAULT)[A-Z_]*'); do
    unset "$name" # what a test sets counts
done
# Open MPI does not free all that it allocates
[ -z "${E2E_SANITIZED:-}" ] || export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0

needs_ranks()
{
    command -v mpirun >/dev/null || { skip "no mpirun (package openmpi-bin)"; finish; }
    [ -n "${RANKS_PLUGIN:-}" ] || { skip "built without MPI"; finish; }
}

plain_kernels()
{
    export PTC_CFLAGS=-O0
}

train() # OUT FLAG... MODEL
{
    local out=$1
    shift
    rm -rf "$out"
    $PTC --threads=1 --costs=model --comm-timeout=60 --out="$out" "$@"
}

same_run() # OUT OUT
{
    same_rows "$1" "$2" && same_weights "$1" "$2"
}

# All processes whose command line names the scratch folder, this shell's own ones excepted.
left_behind()
{
    pgrep -af -- "--out=$work|$work/.*[.]xml" | grep -v pgrep
}

nobody_left() # SECONDS
{
    local tries=0
    while left_behind >left.log; do
        [ $((tries += 1)) -le $((10 * $1)) ] || { echo "after $1 s there are still"; cat left.log; return 1; }
        sleep 0.1
    done
}
