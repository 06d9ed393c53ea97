/* Every wait of the mpi back end. It makes progress itself, gives up at the deadline, and looks around: at the failure
 * flags of ranks that share memory, at messages that tell of failures, and every 50 ms at the processes of this host.
 * Any rank that is lost ends the wait, also one that is not waited for: the job cannot go on without it. */
#include "runtime/comm_mpi.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double LOOK_EVERY_S = 0.05;
static const double SPIN_S = 5e-6;
static const double YIELD_S = 100e-6;      /* when the core is free this is spinning, too */
static const double SLEEP_S = 5e-3;        /* woken by peers; only failures are found this late */
static const double SLEEP_POLL_S = 200e-6; /* when MPI must be polled */

double comm_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t comm_process_start_time(int32_t pid, char *out_state)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : COMM_UNKNOWN_TIME;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) /* it has ended since the file was opened */
        return 0;
    text[n] = 0;
    /* pid (name) state ...; the name may contain anything. state is field 3, the start time field 22. */
    char *at = strrchr(text, ')');
    if (!at || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X' || at[2] == 'x')
        return 0;
    if (out_state)
        *out_state = at[2];
    at++;
    for (int field = 3; field < 22 && at; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static bool process_has_ended(const CommMpi *mpi, uint32_t rank)
{
    uint64_t then = mpi->peers[rank].start_time, now = comm_process_start_time(mpi->world->peers[rank].pid, NULL);
    return now == 0 || (now != then && now != COMM_UNKNOWN_TIME && then != COMM_UNKNOWN_TIME);
}

/* ---- what errors say */

const char *comm_mpi_rank_text(const CommMpi *mpi, uint32_t rank, char out_text[128])
{
    const CommPeer *peer = &mpi->world->peers[rank];
    snprintf(out_text, 128, "rank %u (host %s, pid %d)", rank, peer->host, peer->pid);
    return out_text;
}

static const char *current_text(const CommMpi *mpi, char out_text[512])
{
    out_text[0] = 0;
    if (mpi->world->current)
        comm_record_describe(mpi->world->current, out_text, 512);
    else
        snprintf(out_text, 512, "between operations");
    return out_text;
}

Status comm_mpi_mismatch(const CommMpi *mpi, uint32_t from, uint64_t has_bytes, uint64_t wants_bytes)
{
    char me[128], peer[128], what[512];
    return status_fail(STATUS_IO, "%s got %llu bytes instead of %llu from %s: %s; the ranks run different programs",
                       comm_mpi_rank_text(mpi, mpi->world->rank, me), (unsigned long long)has_bytes,
                       (unsigned long long)wants_bytes, comm_mpi_rank_text(mpi, from, peer), current_text(mpi, what));
}

static Status fail_after_other(CommMpi *mpi, const CommOrigin *origin, uint32_t peer, double waited_s)
{
    char me[128], other[128], what[512];
    mpi->world->origin = *origin;
    return status_fail(STATUS_PEER_LOST, "%s stopped waiting for %s after %.1f s: %s; the first failure: %s",
                       comm_mpi_rank_text(mpi, mpi->world->rank, me), comm_mpi_rank_text(mpi, peer, other), waited_s,
                       current_text(mpi, what), origin->detail);
}

/* Whom the rank that was waited for waits for itself, and so on; what the last one does. */
static void describe_chain(CommMpi *mpi, uint32_t rank, char *out_text, size_t n_bytes)
{
    const CommWorld *world = mpi->world;
    size_t at = 0;
    out_text[0] = 0;
    for (uint32_t i = 0; i < world->size && at < n_bytes; i++)
    {
        uint32_t next = COMM_NO_RANK;
        if (mpi->peers[rank].is_shared)
            next = comm_shared_waits_for(mpi, rank);
        else if (!comm_net_waits_for(mpi, rank, &next))
            at += (size_t)snprintf(out_text + at, n_bytes - at, "; rank %u does not answer", rank);
        if (next == COMM_NO_RANK)
            break;
        char text[128];
        at += (size_t)snprintf(out_text + at, n_bytes - at, "; rank %u waits for %s", rank,
                               comm_mpi_rank_text(mpi, next, text));
        if (next == world->rank)
            return; /* a cycle */
        rank = next;
    }
    char state = 0;
    if (at < n_bytes && world->peers[rank].is_local && !process_has_ended(mpi, rank) &&
        comm_process_start_time(world->peers[rank].pid, &state) != 0 && (state == 'T' || state == 't'))
        snprintf(out_text + at, n_bytes - at, "; the process of rank %u is stopped", rank);
}

static Status fail_timeout(CommMpi *mpi, uint32_t peer, double waited_s)
{
    char me[128], other[128], what[512], chain[512];
    describe_chain(mpi, peer, chain, sizeof chain);
    if (mpi->told.rank != COMM_NO_RANK)
        return fail_after_other(mpi, &mpi->told, peer, waited_s);
    return status_fail(STATUS_TIMEOUT, "%s waited %.1f s for %s: %s%s", comm_mpi_rank_text(mpi, mpi->world->rank, me),
                       waited_s, comm_mpi_rank_text(mpi, peer, other), current_text(mpi, what), chain);
}

static Status fail_lost(CommMpi *mpi, uint32_t lost, uint32_t peer, double waited_s)
{
    char me[128], other[128], what[512];
    CommOrigin *origin = &mpi->world->origin;
    origin->rank = lost;
    comm_mpi_rank_text(mpi, lost, other);
    snprintf(origin->detail, sizeof origin->detail, "%s was lost: its process has ended", other);
    comm_mpi_rank_text(mpi, mpi->world->rank, me);
    current_text(mpi, what);
    if (lost == peer)
        return status_fail(STATUS_PEER_LOST, "%s lost %s, whose process has ended, after waiting %.1f s for it: %s", me,
                           other, waited_s, what);
    char waits_for[128];
    return status_fail(STATUS_PEER_LOST, "%s lost %s, whose process has ended, while it waited %.1f s for %s: %s", me,
                       other, waited_s, comm_mpi_rank_text(mpi, peer, waits_for), what);
}

/* ---- looking around */

/* A rank of this host whose process has ended without leaving as it should; COMM_NO_RANK if there is none. */
static uint32_t lost_process(const CommMpi *mpi)
{
    const CommWorld *world = mpi->world;
    for (uint32_t r = 0; r < world->size; r++)
    {
        const CommMpiPeer *peer = &mpi->peers[r];
        if (r == world->rank || !world->peers[r].is_local || !process_has_ended(mpi, r))
            continue;
        if (!peer->is_shared || comm_shared_state(mpi, r, NULL) != COMM_LEFT)
            return r;
    }
    return COMM_NO_RANK;
}

/* A failure that another rank has made known. */
static Status heard_of_failure(CommMpi *mpi, uint32_t peer, double waited_s)
{
    CommOrigin origin;
    for (uint32_t i = 0; i < mpi->n_shared; i++)
        if (comm_shared_state(mpi, mpi->shared_ranks[i], &origin) == COMM_FAILED)
            return fail_after_other(mpi, &origin, peer, waited_s);
    return mpi->told.rank == COMM_NO_RANK ? STATUS_OK : fail_after_other(mpi, &mpi->told, peer, waited_s);
}

/* Fails when the wait makes no sense any more. */
static Status look_around(CommMpi *mpi, CommCondition *condition, void *context, double start_s, bool *out_done,
                          uint32_t *peer)
{
    double now_s = comm_now_s(), waited_s = now_s - start_s;
    TRY(heard_of_failure(mpi, *peer, waited_s));
    if (now_s - mpi->last_look_s >= LOOK_EVERY_S)
    {
        mpi->last_look_s = now_s;
        uint32_t lost = lost_process(mpi);
        if (lost != COMM_NO_RANK)
        {
            /* what it had sent before it ended counts, and so does what it said of its end */
            TRY(comm_mpi_progress(mpi));
            TRY(condition(mpi, context, out_done, peer));
            if (*out_done)
                return STATUS_OK;
            TRY(heard_of_failure(mpi, *peer, waited_s));
            return fail_lost(mpi, lost, *peer, waited_s);
        }
    }
    return waited_s >= mpi->world->timeout_s ? fail_timeout(mpi, *peer, waited_s) : STATUS_OK;
}

static void sleep_s(double seconds)
{
    struct timespec t = {.tv_nsec = (long)(seconds * 1e9)};
    nanosleep(&t, NULL);
}

static void spin(void)
{
    for (int i = 0; i < 16; i++)
    {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#else
        atomic_signal_fence(memory_order_seq_cst);
#endif
    }
}

static void set_waits_for(CommMpi *mpi, uint32_t rank)
{
    mpi->waits_for = rank;
    if (mpi->shared)
        comm_shared_set_waits_for(mpi, rank);
}

static Status wait_from(CommMpi *mpi, CommCondition *condition, void *context, double start_s)
{
    double nap_s = 20e-6;
    for (;;)
    {
        bool done = false;
        uint32_t peer = mpi->world->rank;
        TRY(comm_mpi_progress(mpi));
        TRY(condition(mpi, context, &done, &peer));
        if (done)
            return STATUS_OK;
        double waited_s = comm_now_s() - start_s;
        if (waited_s < SPIN_S && !mpi->is_crowded)
        {
            spin();
            continue;
        }
        set_waits_for(mpi, peer);
        TRY(look_around(mpi, condition, context, start_s, &done, &peer));
        if (done)
            return STATUS_OK;
        if (waited_s < YIELD_S)
            sched_yield();
        else if (mpi->shared)
        {
            TRY(comm_shared_sleep(mpi, mpi->net || mpi->is_outside ? nap_s : SLEEP_S, condition, context, &done,
                                  &peer));
            if (done)
                return STATUS_OK;
        }
        else
            sleep_s(nap_s);
        nap_s = nap_s * 1.5 < SLEEP_POLL_S ? nap_s * 1.5 : SLEEP_POLL_S;
    }
}

Status comm_mpi_wait(CommMpi *mpi, CommCondition *condition, void *context)
{
    bool done = false;
    uint32_t peer = mpi->world->rank;
    TRY(comm_mpi_progress(mpi));
    TRY(condition(mpi, context, &done, &peer));
    if (done)
        return STATUS_OK;
    double start_s = comm_now_s();
    Status status = wait_from(mpi, condition, context, start_s);
    if (status == STATUS_OK)
        set_waits_for(mpi, COMM_NO_RANK);
    mpi->world->counters.wait_s += comm_now_s() - start_s;
    return status;
}

/* ---- what others carry */

typedef struct
{
    Status (*ask)(void *context, bool *out_done, uint32_t *out_peer);
    void *context;
} Outside;

static Status ask_outside(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const Outside *outside = context;
    return outside->ask(outside->context, out_done, out_peer);
}

Status comm_mpi_wait_outside(CommWorld *world, Status (*ask)(void *context, bool *out_done, uint32_t *out_peer),
                             void *context)
{
    CommMpi *mpi = comm_mpi(world);
    Outside outside = {ask, context};
    mpi->is_outside = true;
    const Status status = comm_mpi_wait(mpi, ask_outside, &outside);
    mpi->is_outside = false;
    return status;
}

uint32_t comm_mpi_late(const Comm *comm)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    uint32_t first = COMM_NO_RANK, far = COMM_NO_RANK;
    for (uint32_t r = 0; r < comm->size; r++)
    {
        const uint32_t rank = comm->ranks[r];
        if (rank == mpi->world->rank)
            continue;
        first = first == COMM_NO_RANK ? rank : first;
        if (!mpi->peers[rank].is_shared)
            far = far == COMM_NO_RANK ? rank : far;
        else if (comm_shared_waits_for(mpi, rank) == COMM_NO_RANK)
            return rank;
    }
    const uint32_t late = far != COMM_NO_RANK ? far : first;
    return late == COMM_NO_RANK ? mpi->world->rank : late;
}
