/* Ranks with a mock GPU each: what device_comm.h promises, where NCCL's sends wait for their receivers. Prints the way
 * that is taken; a failure is printed with its exit code, as ptc would end. cuda_links TIMEOUT_S DUMP_DIR [one] one:
 * all ranks take the same GPU */
#include "runtime/comm_sum.h"
#include "runtime/device_comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    N_MANY = COMM_MAX_IN_FLIGHT, /* messages of tag 0, sent before anything is received */
    N_OTHER = 2,                 /* of tag 1, which are taken first */
    MANY_ELEMS = 1000,
    OTHER_ELEMS = 70000, /* more than the mock moves at once */
    N_SLICES = 3,
    N_ROUNDS = 3
};
static const size_t SLICES[N_SLICES] = {1, 5003, 2};

static Comm *world;
static uint32_t rank, size;
static HalDevice *device;

static Status check(bool good, const char *what)
{
    return good ? STATUS_OK : status_fail(STATUS_IO, "wrong: %s", what);
}

/* Signs and magnitudes that show the order of adding. */
static float number(uint32_t of_rank, uint32_t salt, size_t i)
{
    uint32_t x = of_rank * 2654435761U + salt * 40503U + (uint32_t)i * 69069U;
    x ^= x >> 13;
    x *= 0x5bd1e995U;
    return ((float)(x >> 8 & 0xffff) - 32768) * (1 + (float)(x % 97) * (x % 2 ? 1e-3F : 7.0F));
}

static void fill(float *numbers, size_t n, uint32_t of_rank, uint32_t salt)
{
    for (size_t i = 0; i < n; i++)
        numbers[i] = number(of_rank, salt, i);
}

static bool is_filled(const float *numbers, size_t n, uint32_t of_rank, uint32_t salt)
{
    for (size_t i = 0; i < n; i++)
        if (numbers[i] != number(of_rank, salt, i))
            return false;
    return true;
}

/* ---- messages: around a ring, both ways at once, all sends before all receives, taken in another order */

typedef struct
{
    uint32_t sends[2][N_MANY + N_OTHER + 1], takes[2][N_MANY + N_OTHER + 1]; /* by direction */
    uint32_t program, last_send, last_take, last_program;
    HalBuffer *src, *dst;
} Ring;

static uint32_t peer_of(int way, bool sends)
{
    return (rank + (way == sends ? 1 : size - 1)) % size;
}

/* The i-th message that a rank sends: tag 0 first, then tag 1, then an empty one. */
static size_t elems_of(uint32_t i)
{
    return i < N_MANY ? MANY_ELEMS : i < N_MANY + N_OTHER ? OTHER_ELEMS : 0;
}

static void tell_ring(DeviceLinks *links, Ring *ring)
{
    const uint32_t n = N_MANY + N_OTHER + 1;
    ring->program = device_links_program(links, "train", 0);
    for (uint32_t i = 0; i < n; i++)
        for (int way = 0; way < 2; way++)
            ring->sends[way][i] =
                device_links_message(links, true, peer_of(way, true), (uint32_t)way * 8 + i / N_MANY + (i == n - 1),
                                     elems_of(i) * sizeof(float), "send in a ring", (int32_t)i);
    for (uint32_t k = 0; k < n; k++)
        for (int way = 0; way < 2; way++)
        {
            const uint32_t i = (k + N_MANY) % n;
            ring->takes[way][i] =
                device_links_message(links, false, peer_of(way, false), (uint32_t)way * 8 + i / N_MANY + (i == n - 1),
                                     elems_of(i) * sizeof(float), "recv in a ring", (int32_t)i);
        }
    ring->last_program = device_links_program(links, "eval", 0);
    if (rank == size - 1)
        ring->last_send = device_links_message(links, true, 0, 1, 4, "send of the last", -1);
    if (rank == 0)
        ring->last_take = device_links_message(links, false, size - 1, 1, 4, "recv of the last", -1);
}

static Status send_ring(DeviceLinks *links, const Ring *ring, uint32_t round)
{
    static float numbers[OTHER_ELEMS];
    for (uint32_t i = 0; i < N_MANY + N_OTHER + 1; i++)
        for (uint32_t way = 0; way < 2; way++)
        {
            fill(numbers, elems_of(i), rank, 100 * round + 2 * i + way);
            TRY(hal_copy(device, HAL_COPY_TO_DEVICE, hal_buffer_address(ring->src), numbers,
                         elems_of(i) * sizeof(float)));
            TRY(device_links_send(links, ring->sends[way][i], hal_buffer_address(ring->src)));
        }
    return STATUS_OK;
}

static float *place_in(const Ring *ring, uint32_t k)
{
    return (float *)hal_buffer_address(ring->dst) + (size_t)k * OTHER_ELEMS;
}

static Status take_ring(DeviceLinks *links, const Ring *ring)
{
    const uint32_t n = N_MANY + N_OTHER + 1;
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t way = 0; way < 2; way++)
            TRY(device_links_recv(links, ring->takes[way][(k + N_MANY) % n],
                                  place_in(ring, 2 * ((k + N_MANY) % n) + way)));
    return STATUS_OK;
}

static Status check_ring(const Ring *ring, uint32_t round)
{
    static float numbers[OTHER_ELEMS];
    for (uint32_t i = 0; i < N_MANY + N_OTHER; i++)
        for (uint32_t way = 0; way < 2; way++)
        {
            TRY(hal_copy(device, HAL_COPY_FROM_DEVICE, numbers, place_in(ring, 2 * i + way),
                         elems_of(i) * sizeof(float)));
            TRY(check(is_filled(numbers, elems_of(i), peer_of((int)way, false), 100 * round + 2 * i + way),
                      "a message"));
        }
    return STATUS_OK;
}

/* ---- sums: in place, with what is before and behind the slices */

enum
{
    SLOT_ELEMS = 6000, /* of a slice */
    SUM_ELEMS = N_SLICES * SLOT_ELEMS,
    N_SUMS = 3
};

typedef struct
{
    DeviceSumKind kind;
    uint32_t root, number;
    HalBuffer *memory;
} Sum;

static Status tell_sums(DeviceLinks *links, Sum *sums)
{
    const Sum all[N_SUMS] = {{.kind = DEVICE_ALL_REDUCE}, {.kind = DEVICE_REDUCE, .root = 1}, {.kind = DEVICE_BCAST}};
    for (uint32_t s = 0; s < N_SUMS; s++)
    {
        CommSlice slices[N_SLICES];
        sums[s] = all[s];
        TRY(hal_buffer_create(device, SUM_ELEMS * sizeof(float), &sums[s].memory));
        for (uint32_t i = 0; i < N_SLICES; i++)
        {
            float *at = (float *)hal_buffer_address(sums[s].memory) + i * SLOT_ELEMS;
            slices[i] = (CommSlice){.src = at, .dst = at, .n_elems = SLICES[i]};
        }
        sums[s].number = device_links_sum(links, sums[s].kind, s, sums[s].root, slices, N_SLICES);
    }
    return STATUS_OK;
}

static Status start_sums(DeviceLinks *links, const Sum *sums, uint32_t round)
{
    static float numbers[SUM_ELEMS];
    for (uint32_t s = 0; s < N_SUMS; s++)
    {
        fill(numbers, SUM_ELEMS, rank, 50 * round + s);
        TRY(hal_copy(device, HAL_COPY_TO_DEVICE, hal_buffer_address(sums[s].memory), numbers, sizeof numbers));
        TRY(device_links_sum_start(links, sums[s].number));
    }
    return STATUS_OK;
}

/* What a rank is to have then. */
static void expect(const Sum *sum, uint32_t salt, float *want)
{
    float *all = malloc(size * SUM_ELEMS * sizeof *all);
    const float **rows = malloc(size * sizeof *rows);
    for (uint32_t r = 0; r < size; r++)
    {
        fill(all + r * SUM_ELEMS, SUM_ELEMS, r, salt);
        rows[r] = all + r * SUM_ELEMS;
    }
    float *outs[1] = {want};
    const bool gets_sum = sum->kind == DEVICE_ALL_REDUCE || (sum->kind == DEVICE_REDUCE && rank == sum->root);
    if (gets_sum)
        comm_sum_pairwise(rows, size, outs, 1, SUM_ELEMS);
    else
        memcpy(want, rows[sum->kind == DEVICE_BCAST ? sum->root : rank], SUM_ELEMS * sizeof *want);
    for (size_t i = 0; i < SUM_ELEMS; i++)
        if (i % SLOT_ELEMS >= SLICES[i / SLOT_ELEMS])
            want[i] = rows[rank][i];
    free(rows);
    free(all);
}

static Status check_sums(const Sum *sums, uint32_t round)
{
    static float have[SUM_ELEMS], want[SUM_ELEMS];
    static const char *const names[] = {"an all_reduce", "a reduce", "a bcast"};
    for (uint32_t s = 0; s < N_SUMS; s++)
    {
        expect(&sums[s], 50 * round + s, want);
        TRY(hal_copy(device, HAL_COPY_FROM_DEVICE, have, hal_buffer_address(sums[s].memory), sizeof have));
        TRY(check(memcmp(have, want, sizeof have) == 0, names[s]));
    }
    return STATUS_OK;
}

/* ---- messages between programs: around a ring, then from one rank to the next while the others have none */

enum
{
    N_MOVED = 3
};
static const size_t MOVED[N_MOVED] = {1, OTHER_ELEMS, 0};

static Status check_moved(const HalBuffer *memory, uint32_t from, uint32_t salt)
{
    static float numbers[OTHER_ELEMS];
    for (uint32_t i = 0; i < N_MOVED; i++)
    {
        const float *at = (const float *)hal_buffer_address(memory) + i * OTHER_ELEMS;
        TRY(hal_copy(device, HAL_COPY_FROM_DEVICE, numbers, at, MOVED[i] * sizeof(float)));
        TRY(check(is_filled(numbers, MOVED[i], from, salt + i), "a message between programs"));
    }
    return STATUS_OK;
}

static Status move_once(DeviceComm *gpus, HalBuffer *src, HalBuffer *dst, bool sends, bool takes, uint32_t salt)
{
    static float numbers[OTHER_ELEMS];
    DeviceMove moves[2 * N_MOVED];
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_MOVED; i++)
    {
        float *from = (float *)hal_buffer_address(src) + i * OTHER_ELEMS;
        float *to = (float *)hal_buffer_address(dst) + i * OTHER_ELEMS;
        fill(numbers, MOVED[i], rank, salt + i);
        TRY(hal_copy(device, HAL_COPY_TO_DEVICE, from, numbers, MOVED[i] * sizeof(float)));
        if (sends)
            moves[n++] = (DeviceMove){true, (rank + 1) % size, from, MOVED[i] * sizeof(float)};
        if (takes)
            moves[n++] = (DeviceMove){false, (rank + size - 1) % size, to, MOVED[i] * sizeof(float)};
    }
    TRY(device_comm_move(gpus, moves, n, 4 * (1 + OTHER_ELEMS)));
    return takes ? check_moved(dst, (rank + size - 1) % size, salt) : STATUS_OK;
}

static Status move_between(DeviceComm *gpus)
{
    HalBuffer *src, *dst;
    comm_set_place(world, "moving", -1, -1);
    TRY(hal_buffer_create(device, N_MOVED * OTHER_ELEMS * sizeof(float), &src));
    TRY(hal_buffer_create(device, N_MOVED * OTHER_ELEMS * sizeof(float), &dst));
    TRY(move_once(gpus, src, dst, true, true, 7000));
    TRY(move_once(gpus, src, dst, rank == 0, rank == 1, 7100));
    hal_buffer_destroy(src);
    hal_buffer_destroy(dst);
    return STATUS_OK;
}

/* ---- all of it */

static Status run(DeviceLinks *links, const Ring *ring, const Sum *sums, uint32_t round)
{
    float last = (float)round + 0.5F;
    TRY(device_links_begin(links, ring->program, round));
    TRY(start_sums(links, sums, round));
    TRY(send_ring(links, ring, round));
    TRY(take_ring(links, ring));
    for (uint32_t s = 0; s < N_SUMS; s++)
        TRY(device_links_sum_wait(links, sums[s].number));
    TRY(device_links_finish(links));
    TRY(check_ring(ring, round));
    TRY(check_sums(sums, round));
    TRY(device_links_begin(links, ring->last_program, round));
    if (rank == size - 1)
    {
        TRY(hal_copy(device, HAL_COPY_TO_DEVICE, hal_buffer_address(ring->src), &last, sizeof last));
        TRY(device_links_send(links, ring->last_send, hal_buffer_address(ring->src)));
        last = 0;
    }
    if (rank == 0)
        TRY(device_links_recv(links, ring->last_take, hal_buffer_address(ring->dst)));
    TRY(device_links_finish(links));
    if (rank == 0)
        TRY(hal_copy(device, HAL_COPY_FROM_DEVICE, &last, hal_buffer_address(ring->dst), sizeof last));
    return check(rank > 0 || last == (float)round + 0.5F, "the last message");
}

static Status go(DeviceComm *gpus)
{
    Comm *pipe, *data;
    Ring ring = {0};
    Sum sums[N_SUMS];
    TRY(move_between(gpus));
    TRY(comm_split(world, 0, rank, &pipe));
    TRY(comm_split(world, 0, rank, &data));
    TRY(hal_buffer_create(device, OTHER_ELEMS * sizeof(float), &ring.src));
    TRY(hal_buffer_create(device, 2 * (N_MANY + N_OTHER + 1) * OTHER_ELEMS * sizeof(float), &ring.dst));
    Status status = STATUS_OK;
    for (int life = 0; life < 2 && status == STATUS_OK; life++) /* as at a transition */
    {
        DeviceLinks *links = device_links_create(gpus, pipe, data);
        tell_ring(links, &ring);
        TRY(tell_sums(links, sums));
        status = device_links_connect(links);
        for (uint32_t round = 0; round < N_ROUNDS && status == STATUS_OK; round++)
            status = run(links, &ring, sums, round);
        if (status != STATUS_OK)
            return status;
        device_links_destroy(links);
        for (uint32_t s = 0; s < N_SUMS; s++)
            hal_buffer_destroy(sums[s].memory);
    }
    hal_buffer_destroy(ring.src);
    hal_buffer_destroy(ring.dst);
    return status;
}

int main(int argc, char **argv)
{
    const CommOptions options = {.timeout_s = argc > 1 ? atof(argv[1]) : 0, .dump_dir = argc > 2 ? argv[2] : NULL};
    char way[DEVICE_COMM_WAY_BYTES] = "";
    DeviceComm *gpus = NULL;
    Status status = comm_create("mpi", &options, &world);
    if (status != STATUS_OK)
        return fprintf(stderr, "%s\n", status_detail()), 1;
    rank = comm_rank(world);
    size = comm_size(world);
    const HalOptions hal = {.nth_process = argc > 3 ? 0 : (int)rank, .has_peers = true};
    status = hal_device_create("cuda", &hal, &device);
    if (status == STATUS_OK)
        status = device_comm_create(device, world, way, &gpus);
    if (status == STATUS_OK && rank == 0)
        printf("%s\n", way);
    if (status == STATUS_OK && gpus)
        status = go(gpus);
    if (status == STATUS_OK && gpus)
        printf("rank %u is good\n", rank);
    else if (status != STATUS_OK)
    {
        fprintf(stderr, "rank %u, exit code %d: %s\n", rank, status_exit_code(status), status_detail());
        comm_dump(world, status_detail());
    }
    device_comm_destroy(gpus, status != STATUS_OK);
    comm_destroy(world);
    hal_device_destroy(device);
    return status == STATUS_OK ? 0 : status_exit_code(status);
}
