# What the launcher's tests share, on top of tests/e2e/lib.sh; FAKE_RANK is the program of fake_rank.c.
COMPARE=none
. "$(dirname "$0")/../e2e/lib.sh"
: "${FAKE_RANK:?}"
model=$fixtures/vit-tiny.xml
export TMPDIR=$work # run folders
for name in $(env | grep -oE '^(OMPI_|PMI_|PMIX_|MPI_|SLURM_|PTC_LAUNCH_|PTC_MPIRUN)[A-Z_]*'); do
    unset "$name" # what a test sets counts
done

needs_mpirun() # the rest is skipped without
{
    command -v mpirun >/dev/null || { skip "no mpirun (package openmpi-bin)"; finish; }
}

fake() # FLAG...: the launcher with fake ranks and the orders in $FAKE; fills out.log and err.log
{
    rm -f pid-* ready-* saved-* ranks.log
    PTC_LAUNCH_PROGRAM=$FAKE_RANK $PTC "$@" "$model" >out.log 2>err.log
}

fake_starts() # N FLAG...: in the background; returns when N ranks listen. Its process is $launcher
{
    local n=$1 tries=0
    shift
    rm -f pid-* ready-* saved-* ranks.log
    PTC_LAUNCH_PROGRAM=$FAKE_RANK $PTC -n "$n" "$@" "$model" >out.log 2>err.log &
    launcher=$!
    until [ "$(ls ready-* 2>/dev/null | wc -l)" = "$n" ]; do
        kill -0 $launcher 2>/dev/null && [ $((tries += 1)) -lt 600 ] || { echo "the ranks do not start"; cat err.log; return 1; }
        sleep 0.05
    done
}

fake_ends() # the exit code of $launcher
{
    wait "$launcher"
}

all_gone_in() # MILLISECONDS: no rank's process is left, and how long that took
{
    local from now pid left
    from=$(date +%s%3N)
    while :; do
        left=
        for pid in $(cat pid-*); do
            # a zombie in a container whose init does not wait for it is gone, too
            grep -qsE '^State:\s+[^ZX]' "/proc/$pid/status" && left="$left $pid"
        done
        now=$(date +%s%3N)
        [ -n "$left" ] || break
        [ $((now - from)) -lt "$1" ] || { echo "after $1 ms there are still$left"; return 1; }
        sleep 0.02
    done
    echo "gone after $((now - from)) ms"
}

no_folder_left()
{
    ! ls -d "$work"/ptc-ranks-* 2>/dev/null
}

# CODE TEXT...: the exit code of the last command before, every TEXT a line of err.log, in this order; no other lines
ended() # HAVE WANT TEXT...
{
    local have=$1 want=$2
    shift 2
    printf '%s\n' "$@" >want.log
    [ $# -gt 0 ] || : >want.log
    [ "$have" = "$want" ] && diff want.log err.log && no_folder_left && return
    echo "exit code $have, not $want"
    cat err.log
    return 1
}
