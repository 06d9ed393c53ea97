/* What exchanging costs: as a program's messages and sums go, by memory that the ranks share, from GPU to GPU, or from
 * a GPU through memory of the host. */
#include "driver/measure.h"

#include "runtime/device_comm.h"

enum
{
    LINK_TAG = (1 << 19) + 1, /* in the world, where programs send nothing */
    LINK_ROUNDS = 5,
    LINK_BYTES = 1 << 20,
    SUM_BYTES = 4 << 20
};

typedef struct
{
    Comm *world;
    HalDevice *device;
    uint32_t peer;      /* of no rank: there is nobody to send to */
    char *bytes;        /* on the device */
    char *host;         /* what goes through memory of the host; `bytes` where that is all there is */
    DeviceLinks *links; /* NULL: through memory of the host */
    uint32_t exchange, send, recv, sums, sum;
} Link;

static bool has_peer(const Link *l)
{
    return l->peer < comm_size(l->world);
}

static Status to_host(const Link *l, size_t size_bytes)
{
    return l->host == l->bytes ? STATUS_OK : hal_copy(l->device, HAL_COPY_FROM_DEVICE, l->host, l->bytes, size_bytes);
}

static Status to_device(const Link *l, size_t size_bytes)
{
    return l->host == l->bytes ? STATUS_OK : hal_copy(l->device, HAL_COPY_TO_DEVICE, l->bytes, l->host, size_bytes);
}

/* A message to the neighbour and one from it. */
static Status exchange(const Link *l)
{
    if (l->links)
    {
        TRY(device_links_begin(l->links, l->exchange, -1));
        if (has_peer(l))
        {
            TRY(device_links_send(l->links, l->send, l->bytes));
            TRY(device_links_recv(l->links, l->recv, l->bytes + LINK_BYTES));
        }
        return device_links_finish(l->links);
    }
    if (!has_peer(l))
        return STATUS_OK;
    TRY(to_host(l, LINK_BYTES));
    TRY(comm_send(l->world, l->peer, LINK_TAG, l->host, LINK_BYTES));
    TRY(comm_recv(l->world, l->peer, LINK_TAG, l->host, LINK_BYTES));
    return to_device(l, LINK_BYTES);
}

static CommSlice slice_of(char *bytes)
{
    float *elems = (float *)(void *)bytes;
    return (CommSlice){.src = elems, .dst = elems, .n_elems = SUM_BYTES / sizeof *elems};
}

static Status add_up(const Link *l)
{
    if (l->links)
    {
        TRY(device_links_begin(l->links, l->sums, -1));
        TRY(device_links_sum_start(l->links, l->sum));
        TRY(device_links_sum_wait(l->links, l->sum));
        return device_links_finish(l->links);
    }
    const CommSlice slice = slice_of(l->host);
    TRY(to_host(l, SUM_BYTES));
    TRY(comm_all_reduce_start(l->world, 0, &slice, 1));
    TRY(comm_bucket_wait(l->world, 0));
    return to_device(l, SUM_BYTES);
}

static Status time_both(const Link *l, CostMachine *machine)
{
    double link_s = 0, sum_s = 0;
    for (int round = -1; round < LINK_ROUNDS; round++)
    {
        TRY(comm_barrier(l->world));
        double start_s = driver_now_s();
        TRY(exchange(l));
        link_s += round >= 0 ? driver_now_s() - start_s : 0;
        TRY(comm_barrier(l->world));
        start_s = driver_now_s();
        TRY(add_up(l));
        sum_s += round >= 0 ? driver_now_s() - start_s : 0;
    }
    if (has_peer(l))
        machine->link_bytes_per_s = (double)LINK_ROUNDS * LINK_BYTES / link_s;
    machine->sum_bytes_per_s = (double)LINK_ROUNDS * SUM_BYTES / sum_s;
    return STATUS_OK;
}

/* The exchanges as programs of the devices. */
static Status connect(Link *l, DeviceComm *comm)
{
    const CommSlice slice = slice_of(l->bytes);
    l->links = device_links_create(comm, l->world, l->world);
    l->exchange = device_links_program(l->links, "exchange", 0);
    if (has_peer(l))
    {
        l->send = device_links_message(l->links, true, l->peer, 0, LINK_BYTES, "measuring a link", -1);
        l->recv = device_links_message(l->links, false, l->peer, 0, LINK_BYTES, "measuring a link", -1);
    }
    l->sums = device_links_program(l->links, "sums", 0);
    l->sum = device_links_sum(l->links, DEVICE_ALL_REDUCE, 0, 0, &slice, 1);
    return device_links_connect(l->links);
}

static Status measure_on_device(Session *s, Link *l, CostMachine *machine)
{
    HalBuffer *buffer;
    TRY(hal_buffer_create(s->device, SUM_BYTES, &buffer));
    l->device = s->device;
    l->bytes = hal_buffer_address(buffer);
    Status status = STATUS_OK;
    if (s->ranks.comm.device)
        status = connect(l, s->ranks.comm.device);
    else
        l->host = ARENA_ARRAY(s->arena, char, SUM_BYTES);
    if (status == STATUS_OK)
        status = time_both(l, machine);
    device_links_destroy(l->links);
    hal_buffer_destroy(buffer);
    return status;
}

Status measure_link(Session *s, CostMachine *machine)
{
    Link l = {.world = s->ranks.comm.world, .peer = s->ranks.rank ^ 1};
    TRY(session_make_device(s));
    if (!hal_device_uses_host_memory(s->device))
        return measure_on_device(s, &l, machine);
    void *shared;
    TRY(comm_memory_take(l.world, SUM_BYTES, &shared)); /* as the executor does */
    l.host = l.bytes = shared ? shared : ARENA_ARRAY(s->arena, char, SUM_BYTES);
    return time_both(&l, machine);
}
