/* The way between GPUs of a process: who takes part, NCCL's start and end, its errors. Nothing of NCCL blocks: whatever
 * was called is asked about until it is done, within the deadline of the communicator. */
#include "runtime/hal_cuda_nccl.h"
#include "base/bug.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double GRACE_S =
    1; /* from an error of NCCL until it is told: the communicator may find the rank that is gone */

enum
{
    N_QUICK = 64,  /* looks without a wait */
    MAX_BLOCKS = 8 /* that a kernel of NCCL may hold while it waits, of the hundred and more that a GPU runs at once */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- errors */

Status cuda_nccl_fail(DeviceComm *c, CuResult result, const CommOutside *operation)
{
    char what[512];
    comm_record_describe(&operation->record, what, sizeof what);
    const uint32_t peer = comm_outside_peer(operation);
    const char *text = c->nccl.last_error(c->all.comm);
    const bool is_peer = result == NCCL_REMOTE_ERROR || result == NCCL_SYSTEM_ERROR;
    return status_fail(is_peer ? STATUS_PEER_LOST : STATUS_DEVICE,
                       "NCCL failed on cuda:%d, with rank %u (host %s): %s%s%s: %s", c->device->index, peer,
                       comm_host(c->world, peer), c->nccl.error_text(result), text && *text ? ", " : "",
                       text && *text ? text : "", what);
}

Status cuda_nccl_give_up(DeviceComm *c, Status status)
{
    if (c->aborted)
        return status;
    c->aborted = true;
    for (const CudaGroup *group = c->groups; group; group = group->next)
        c->nccl.abort(group->comm);
    if (c->all.comm)
        c->nccl.abort(c->all.comm);
    return status;
}

/* What a group says of itself; an error is told after some time. */
static Status look_at(DeviceComm *c, const CudaGroup *group, const CommOutside *operation, bool *out_busy)
{
    CuResult state = 0, result = c->nccl.state(group->comm, &state);
    result = result ? result : state;
    *out_busy = result != 0;
    if (result == 0 || result == NCCL_IN_PROGRESS)
        return STATUS_OK;
    if (c->error_s == 0)
        c->error_s = now_s();
    return now_s() - c->error_s < GRACE_S ? STATUS_OK : cuda_nccl_fail(c, result, operation);
}

typedef struct
{
    DeviceComm *comm;
    const CudaGroup *group;
    const CommOutside *operation;
} Settling;

static Status is_settled(void *context, bool *out_done, const CommOutside **out_now)
{
    const Settling *s = context;
    bool is_busy;
    *out_now = s->operation;
    TRY(look_at(s->comm, s->group, s->operation, &is_busy));
    *out_done = !is_busy;
    return STATUS_OK;
}

Status cuda_nccl_settle(DeviceComm *c, CudaGroup *group, const CommOutside *operation)
{
    bool is_busy = true;
    for (int i = 0; i < N_QUICK && is_busy && c->error_s == 0; i++)
        TRY(look_at(c, group, operation, &is_busy));
    if (!is_busy)
        return STATUS_OK;
    Settling settling = {c, group, operation};
    const Status status = comm_outside_wait(c->world, is_settled, &settling);
    return status == STATUS_OK ? status : cuda_nccl_give_up(c, status);
}

/* ---- waiting for the device */

/* What has happened is noted, up to the first that has not. */
static Status drain(DeviceLinks *l)
{
    const CudaDriver *driver = &l->comm->device->driver;
    while (l->first_pending < l->pending.len)
    {
        CudaPending *pending = &l->pending.data[l->first_pending];
        const CuResult result = pending->event ? driver->event_query(pending->event) : 0;
        if (result == CUDA_NOT_READY)
            return STATUS_OK;
        if (result != 0)
            return cuda_fail(driver, result, "exchanging on cuda:%d", l->comm->device->index);
        comm_outside_complete(&pending->operation);
        l->first_pending++;
    }
    l->first_pending = l->pending.len = 0;
    return STATUS_OK;
}

void cuda_nccl_pending(DeviceLinks *l, CommOutside operation, CuEvent event)
{
    for (uint32_t i = l->first_pending; i < l->pending.len; i++)
        if (l->pending.data[i].event == event)
            l->pending.data[i].event = NULL; /* work behind it has begun */
    vec_push(l->arena, &l->pending, (CudaPending){operation, event, false});
}

void cuda_nccl_await(DeviceLinks *l, CuEvent event)
{
    for (uint32_t i = l->first_pending; i < l->pending.len; i++)
        l->pending.data[i].is_awaited |= l->pending.data[i].event == event;
}

/* What the work of the device hangs on. */
static const CommOutside *hangs_on(const DeviceLinks *l)
{
    for (uint32_t i = l->first_pending; i < l->pending.len; i++)
        if (l->pending.data[i].is_awaited)
            return &l->pending.data[i].operation;
    return &l->pending.data[l->first_pending].operation;
}

typedef struct
{
    DeviceLinks *links;
    CuEvent event;
} Waiting;

static Status has_happened(void *context, bool *out_done, const CommOutside **out_now)
{
    const Waiting *waiting = context;
    DeviceLinks *l = waiting->links;
    DeviceComm *c = l->comm;
    bool is_busy;
    TRY(drain(l));
    const CuResult result = c->device->driver.event_query(waiting->event);
    if (result != 0 && result != CUDA_NOT_READY)
        return cuda_fail(&c->device->driver, result, "waiting for work on cuda:%d", c->device->index);
    /* without messages on their way it is the device's own work, which ends */
    *out_done = result == 0 || l->pending.len == 0;
    if (*out_done)
        return STATUS_OK;
    *out_now = hangs_on(l);
    for (const CudaGroup *group = c->groups; group; group = group->next)
        TRY(look_at(c, group, *out_now, &is_busy));
    return STATUS_OK;
}

Status cuda_nccl_wait(DeviceLinks *l, CuEvent event)
{
    Waiting waiting = {l, event};
    const Status status = comm_outside_wait(l->comm->world, has_happened, &waiting);
    return status == STATUS_OK ? status : cuda_nccl_give_up(l->comm, status);
}

typedef struct
{
    DeviceComm *comm;
    CuEvent event;
    const CommOutside *operation;
} Finishing;

static Status is_finished(void *context, bool *out_done, const CommOutside **out_now)
{
    const Finishing *f = context;
    DeviceComm *c = f->comm;
    bool is_busy;
    const CuResult result = c->device->driver.event_query(f->event);
    if (result != 0 && result != CUDA_NOT_READY)
        return cuda_fail(&c->device->driver, result, "exchanging on cuda:%d", c->device->index);
    *out_done = result == 0;
    *out_now = f->operation;
    return *out_done ? STATUS_OK : look_at(c, &c->all, f->operation, &is_busy);
}

Status cuda_nccl_finish(DeviceComm *c, CommOutside *operation, CuEvent event)
{
    Finishing finishing = {c, event, operation};
    const Status status = comm_outside_wait(c->world, is_finished, &finishing);
    if (status != STATUS_OK)
        return cuda_nccl_give_up(c, status);
    comm_outside_complete(operation);
    return STATUS_OK;
}

/* ---- groups */

static NcclConfig make_config(void)
{
    return (NcclConfig){.size_bytes = sizeof(NcclConfig),
                        .magic = NCCL_CONFIG_MAGIC,
                        .version = NCCL_VERSION_2_18,
                        .blocking = 0,
                        .cga_cluster_size = NCCL_NOT_SET,
                        .min_ctas = 1,
                        .max_ctas = MAX_BLOCKS,
                        .split_share = NCCL_NOT_SET};
}

Status cuda_nccl_split(DeviceComm *c, int color, int key, CudaGroup *out_group)
{
    NcclConfig config = make_config();
    CommOutside operation = comm_outside_start(c->world, COMM_KIND_SPLIT, COMM_NO_RANK, COMM_NO_TAG, 0);
    *out_group = (CudaGroup){0};
    NCCL_TRY(c, &operation, split(c->all.comm, color, key, &out_group->comm, &config));
    if (out_group->comm)
    {
        out_group->next = c->groups;
        c->groups = out_group;
    }
    TRY(cuda_nccl_settle(c, &c->all, &operation));
    if (out_group->comm)
    {
        TRY(cuda_nccl_settle(c, out_group, &operation));
        CUDA_TRY(&c->device->driver, stream_create(&out_group->stream, CUDA_STREAM_NON_BLOCKING),
                 "making a stream on cuda:%d", c->device->index);
    }
    comm_outside_complete(&operation);
    return STATUS_OK;
}

void cuda_nccl_begin_to_leave(DeviceComm *c, CudaGroup *group)
{
    if (group->comm && !c->aborted)
        c->nccl.finalize(group->comm);
}

static void end(DeviceComm *c, CudaGroup *group)
{
    const CommOutside operation = comm_outside_start(c->world, COMM_KIND_DESTROY, COMM_NO_RANK, COMM_NO_TAG, 0);
    if (!c->aborted && cuda_nccl_settle(c, group, &operation) == STATUS_OK)
        c->nccl.destroy(group->comm);
}

void cuda_nccl_leave(DeviceComm *c, CudaGroup *group)
{
    if (!group->comm)
        return;
    end(c, group);
    if (group->stream)
        c->device->driver.stream_destroy(group->stream);
    CudaGroup **link = &c->groups;
    while (*link != group)
        link = &(*link)->next;
    *link = group->next;
    group->comm = NULL;
}

/* ---- who takes part */

typedef struct
{
    char bus[32], host[64];
    char why_not[256];
} Member;

static Status describe_me(DeviceComm *c, Member *me)
{
    const CudaDevice *device = c->device;
    CUDA_TRY(&device->driver, device_bus(me->bus, (int)sizeof me->bus, device->device), "asking cuda:%d",
             device->index);
    snprintf(me->host, sizeof me->host, "%s", comm_host(c->world, comm_rank(c->world)));
    if (cuda_nccl_open(&c->nccl) != STATUS_OK)
        snprintf(me->why_not, sizeof me->why_not, "%.255s", status_detail());
    return STATUS_OK;
}

/* Why NCCL is not the way, in out_way; false: it is. */
static bool is_hindered(const Member *members, uint32_t n, char out_way[DEVICE_COMM_WAY_BYTES])
{
    static const char through[] = "GPUs exchange through memory of the host";
    for (uint32_t r = 0; r < n; r++)
        if (members[r].why_not[0])
        {
            snprintf(out_way, DEVICE_COMM_WAY_BYTES, "%s: rank %u: %s", through, r, members[r].why_not);
            return true;
        }
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t q = 0; q < r; q++)
            if (strcmp(members[q].bus, members[r].bus) == 0 && strcmp(members[q].host, members[r].host) == 0)
            {
                snprintf(out_way, DEVICE_COMM_WAY_BYTES, "%s: ranks %u and %u share one (%s of host %s)", through, q, r,
                         members[r].bus, members[r].host);
                return true;
            }
    return false;
}

static Status start_nccl(DeviceComm *c)
{
    NcclId id = {0};
    NcclConfig config = make_config();
    CommOutside operation = comm_outside_start(c->world, COMM_KIND_SPLIT, COMM_NO_RANK, COMM_NO_TAG, 0);
    if (comm_rank(c->world) == 0)
        NCCL_TRY(c, &operation, make_id(&id));
    TRY(comm_broadcast(c->world, 0, &id, sizeof id));
    TRY(cuda_enter(c->device));
    NCCL_TRY(c, &operation, init(&c->all.comm, (int)comm_size(c->world), id, (int)comm_rank(c->world), &config));
    TRY(cuda_nccl_settle(c, &c->all, &operation));
    comm_outside_complete(&operation);
    return STATUS_OK;
}

static Status create(DeviceComm *c, Member *members, char out_way[DEVICE_COMM_WAY_BYTES], bool *out_is_way)
{
    Member me = {0};
    comm_set_place(c->world, "starting NCCL", -1, -1);
    TRY(describe_me(c, &me));
    TRY(comm_all_gather(c->world, &me, sizeof me, members));
    *out_is_way = !is_hindered(members, comm_size(c->world), out_way);
    if (!*out_is_way)
        return STATUS_OK;
    TRY(start_nccl(c));
    snprintf(out_way, DEVICE_COMM_WAY_BYTES, "GPUs exchange by NCCL %d.%d.%d", c->nccl.version / 10000,
             c->nccl.version % 10000 / 100, c->nccl.version % 100);
    return STATUS_OK;
}

Status device_comm_create(HalDevice *device, Comm *world, char out_way[DEVICE_COMM_WAY_BYTES], DeviceComm **out_comm)
{
    bool is_way = false;
    *out_comm = NULL;
    out_way[0] = 0;
    if (device->ops != &hal_cuda_ops || comm_size(world) == 1)
        return STATUS_OK;
    DeviceComm *c = calloc(1, sizeof *c);
    Member *members = calloc(comm_size(world), sizeof *members);
    if (!c || !members)
        base_out_of_memory(comm_size(world) * sizeof *members);
    c->device = (CudaDevice *)device;
    c->world = world;
    const Status status = create(c, members, out_way, &is_way);
    free(members);
    if (status == STATUS_OK && is_way)
        *out_comm = c;
    else
        device_comm_destroy(c, true);
    return status;
}

void device_comm_destroy(DeviceComm *c, bool failed)
{
    if (!c)
        return;
    if (failed)
        cuda_nccl_give_up(c, STATUS_OK);
    while (c->links)
        device_links_destroy(c->links);
    cuda_nccl_begin_to_leave(c, &c->all);
    if (c->all.comm)
        end(c, &c->all);
    if (c->moved)
        c->device->driver.event_destroy(c->moved);
    if (c->all.stream)
        c->device->driver.stream_destroy(c->all.stream);
    cuda_nccl_close(&c->nccl);
    free(c);
}
