/* Sums over replicas on GPUs. NCCL's own sums add in an order of theirs; here NCCL only moves numbers, and one kernel
 * adds what all ranks have, pairwise in order. Of an all_reduce each rank adds a part, and gives it to the others.
 * Buckets run one after another on a stream, in the order that all ranks start them in, beside the work of the device.
 */
#include "base/bug.h"
#include "base/strbuf.h"
#include "codegen/cache.h"
#include "runtime/cuda_compile.h"
#include "runtime/hal_cuda_nccl.h"

#include <string.h>

enum
{
    PART_ELEMS = 1024, /* of an all_reduce that one rank adds, at least, and a multiple of it */
    CHUNK_ELEMS = 4096,
    BLOCK = 256, /* threads */
    ALIGN_ELEMS = 4
};

/* What a block of threads adds: as the kernel has it. */
typedef struct
{
    const float *own;
    float *out;
    unsigned at; /* in each block of the others, in numbers */
    unsigned n;
} Chunk;

/* ---- the kernel */

/* "a0 + a1" of ranks first..first + n - 1, pairwise. */
static void add_terms(StrBuf *text, uint32_t first, uint32_t n)
{
    uint32_t p = 1;
    if (n == 1)
    {
        strbuf_addf(text, "a%u", first);
        return;
    }
    while (p * 2 < n)
        p *= 2;
    strbuf_add(text, "(");
    add_terms(text, first, p);
    strbuf_add(text, " + ");
    add_terms(text, first + p, n - p);
    strbuf_add(text, ")");
}

/* Statements that add `type`s at c.own and at c.at of the others' blocks, the i-th of each. */
static void add_sum(StrBuf *text, uint32_t n_ranks, uint32_t rank, const char *type)
{
    for (uint32_t r = 0; r < n_ranks; r++)
        if (r == rank)
            strbuf_addf(text, "            const %s a%u = ((const %s *)c.own)[i];\n", type, r, type);
        else
            strbuf_addf(text, "            const %s a%u = ((const %s *)(others + %uull * stride + c.at))[i];\n", type,
                        r, type, r - (r > rank));
    strbuf_addf(text, "            ((%s *)c.out)[i] = ", type);
    add_terms(text, 0, n_ranks);
    strbuf_add(text, ";\n");
}

const char *cuda_sum_text(Arena *arena, uint32_t n_ranks, uint32_t rank)
{
    StrBuf text = strbuf_make(arena);
    strbuf_add(&text, "struct alignas(16) Four\n{\n    float x, y, z, w;\n};\n"
                      "static __device__ inline Four operator+(Four a, Four b)\n{\n"
                      "    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};\n}\n"
                      "struct Chunk\n{\n    const float *own;\n    float *out;\n    unsigned at, n;\n};\n");
    strbuf_addf(&text,
                "extern \"C\" __global__ void __launch_bounds__(%d) "
                "add_ranks(const Chunk *chunks, const float *others, char *, unsigned stride)\n{\n"
                "    const Chunk c = chunks[blockIdx.x];\n"
                "    for (unsigned i = threadIdx.x; i < c.n / 4; i += %d)\n        {\n",
                BLOCK, BLOCK);
    add_sum(&text, n_ranks, rank, "Four");
    strbuf_addf(&text, "        }\n    for (unsigned i = c.n / 4 * 4 + threadIdx.x; i < c.n; i += %d)\n        {\n",
                BLOCK);
    add_sum(&text, n_ranks, rank, "float");
    strbuf_add(&text, "        }\n}\n");
    return strbuf_text(&text);
}

static Status compile_sum(Arena *arena, const CudaCompiler *compiler, const char *text, const char **out_cubin)
{
    const char *dir;
    size_t size;
    TRY(cache_dir(arena, &dir));
    const char *texts[] = {text, compiler->version, compiler->options[0], compiler->options[1]};
    const CacheEntry entry = cache_entry(arena, dir, cache_key(arena, texts, sizeof texts / sizeof *texts), "cubin", 0);
    if (cache_entry_valid(arena, &entry))
    {
        *out_cubin = cache_read(arena, entry.path, &size);
        return *out_cubin ? STATUS_OK : status_fail(STATUS_DEVICE, "cannot read the kernel in %s", entry.path);
    }
    TRY(cuda_compile(arena, compiler, text, entry.stem, out_cubin, &size));
    TRY(cache_write(entry.new_path, *out_cubin, size));
    return cache_entry_publish(arena, &entry);
}

Status cuda_sum_load(CudaDevice *device, uint32_t n_ranks, uint32_t rank, CuModule *out_module, CuFunction *out_add)
{
    CudaCompiler compiler = {0};
    Arena *arena = arena_create();
    const char *cubin = NULL;
    Status status = cuda_compiler_open(arena, &device->driver, device->arch, CUDA_CUBIN, &compiler);
    if (status == STATUS_OK)
        status = compile_sum(arena, &compiler, cuda_sum_text(arena, n_ranks, rank), &cubin);
    CuResult result = 0;
    if (status == STATUS_OK)
        result = device->driver.module_load(out_module, cubin);
    if (status == STATUS_OK && result == 0)
        result = device->driver.module_function(out_add, *out_module, "add_ranks");
    if (result != 0)
        status = cuda_fail(&device->driver, result, "loading the kernel that adds what %u ranks have", n_ranks);
    cuda_compiler_close(&compiler);
    arena_destroy(arena);
    return status;
}

Status cuda_sum_launch(const CudaDevice *device, CuFunction add, CuStream stream, uint32_t n_chunks, CuDevicePtr chunks,
                       CuDevicePtr others, uint32_t stride)
{
    CuDevicePtr none = 0;
    void *parameters[] = {&chunks, &others, &none, &stride};
    if (n_chunks)
        CUDA_TRY(&device->driver, launch(add, n_chunks, 1, 1, BLOCK, 1, 1, 0, stream, parameters, NULL),
                 "launching the kernel that adds what ranks have");
    return STATUS_OK;
}

/* ---- who adds what */

typedef struct
{
    size_t begin, end; /* of the row of a sum */
} Range;

static Range range_of(const CudaSum *sum, uint32_t n_ranks, uint32_t rank)
{
    if (sum->kind != DEVICE_ALL_REDUCE)
        return rank == sum->root ? (Range){0, sum->n_elems} : (Range){0, 0};
    const size_t part = ((sum->n_elems + n_ranks - 1) / n_ranks + PART_ELEMS - 1) / PART_ELEMS * PART_ELEMS;
    const size_t begin = rank * part < sum->n_elems ? rank * part : sum->n_elems;
    return (Range){begin, begin + part < sum->n_elems ? begin + part : sum->n_elems};
}

/* The part of a slice in a range: false, there is none. */
static bool part_of(const CudaSum *sum, uint32_t slice, Range range, CommSlice *out_part, size_t *out_at)
{
    const CommSlice *s = &sum->slices[slice];
    const size_t begin = sum->at[slice] > range.begin ? sum->at[slice] : range.begin;
    const size_t end = sum->at[slice] + s->n_elems < range.end ? sum->at[slice] + s->n_elems : range.end;
    if (begin >= end)
        return false;
    const size_t skip = begin - sum->at[slice];
    *out_part = (CommSlice){.src = s->src + skip, .dst = s->dst ? s->dst + skip : NULL, .n_elems = end - begin};
    *out_at = begin - range.begin;
    return true;
}

static size_t stride_of(Range range)
{
    return (range.end - range.begin + ALIGN_ELEMS - 1) / ALIGN_ELEMS * ALIGN_ELEMS;
}

uint32_t device_links_sum(DeviceLinks *l, DeviceSumKind kind, uint32_t bucket, uint32_t root, const CommSlice *slices,
                          uint32_t n_slices)
{
    CudaSum sum = {.kind = kind, .bucket = bucket, .root = root, .n_slices = n_slices};
    sum.slices = arena_memdup(l->arena, slices, n_slices * sizeof *slices);
    sum.at = ARENA_ARRAY(l->arena, size_t, n_slices);
    for (uint32_t i = 0; i < n_slices; i++)
    {
        ENSURE((uintptr_t)slices[i].src % 16 == 0 && (uintptr_t)slices[i].dst % 16 == 0);
        sum.at[i] = sum.n_elems;
        sum.n_elems += (slices[i].n_elems + ALIGN_ELEMS - 1) / ALIGN_ELEMS * ALIGN_ELEMS;
    }
    vec_push(l->arena, &l->sums, sum);
    return l->sums.len - 1;
}

static uint32_t count_chunks(const CudaSum *sum, Range range)
{
    uint32_t n = 0;
    CommSlice part;
    size_t at;
    for (uint32_t i = 0; i < sum->n_slices && sum->kind != DEVICE_BCAST; i++)
        if (part_of(sum, i, range, &part, &at))
            n += (uint32_t)((part.n_elems + CHUNK_ELEMS - 1) / CHUNK_ELEMS);
    return n;
}

size_t cuda_sum_place(DeviceLinks *l, size_t at)
{
    const uint32_t me = comm_rank(l->data), n_ranks = comm_size(l->data);
    uint32_t n_chunks = 0;
    size_t most = 2 * (size_t)n_ranks * ALIGN_ELEMS; /* of the first messages */
    for (uint32_t i = 0; i < l->sums.len; i++)
    {
        CudaSum *sum = &l->sums.data[i];
        const Range mine = range_of(sum, n_ranks, me);
        const size_t others = sum->kind == DEVICE_BCAST ? 0 : (n_ranks - 1) * stride_of(mine);
        sum->first_chunk = n_chunks;
        sum->n_chunks = count_chunks(sum, mine);
        n_chunks += sum->n_chunks;
        most = others > most ? others : most;
    }
    l->others_at = at;
    l->chunks_at = at + most * sizeof(float);
    return l->chunks_at + n_chunks * sizeof(Chunk);
}

static Status write_chunks(DeviceLinks *l)
{
    const uint32_t me = comm_rank(l->data), n_ranks = comm_size(l->data);
    VEC(Chunk) chunks = {0};
    CommSlice part;
    size_t at;
    for (uint32_t s = 0; s < l->sums.len; s++)
    {
        const CudaSum *sum = &l->sums.data[s];
        ENSURE(sum->first_chunk == chunks.len);
        for (uint32_t i = 0; i < sum->n_slices && sum->kind != DEVICE_BCAST; i++)
            if (part_of(sum, i, range_of(sum, n_ranks, me), &part, &at))
                for (size_t done = 0; done < part.n_elems; done += CHUNK_ELEMS)
                {
                    const size_t left = part.n_elems - done;
                    vec_push(l->arena, &chunks,
                             (Chunk){.own = part.src + done,
                                     .out = part.dst + done,
                                     .at = (unsigned)(at + done),
                                     .n = (unsigned)(left < CHUNK_ELEMS ? left : CHUNK_ELEMS)});
                }
    }
    return hal_copy(&l->comm->device->base, HAL_COPY_TO_DEVICE, (char *)hal_buffer_address(l->memory) + l->chunks_at,
                    chunks.data, chunks.len * sizeof(Chunk));
}

/* A number to and from everybody, and from one to all: NCCL connects when it first does so. */
static Status first_messages(DeviceLinks *l)
{
    DeviceComm *c = l->comm;
    const CudaDriver *driver = &c->device->driver;
    const NcclComm comm = l->adding.comm;
    const uint32_t me = comm_rank(l->data), n_ranks = comm_size(l->data);
    float *numbers = (float *)(void *)((char *)hal_buffer_address(l->memory) + l->others_at);
    const CommOutside operation = comm_outside_start(l->data, COMM_KIND_ALL_GATHER, COMM_NO_RANK, COMM_NO_TAG, 4);
    NCCL_TRY(c, &operation, group_start());
    for (uint32_t r = 0; r < n_ranks; r++)
    {
        if (r == me)
            continue;
        NCCL_TRY(c, &operation, send(numbers, 1, NCCL_F32, (int)r, comm, l->adding.stream));
        NCCL_TRY(c, &operation, recv(numbers + 4 * (r + 1), 1, NCCL_F32, (int)r, comm, l->adding.stream));
    }
    NCCL_TRY(c, &operation, group_end());
    TRY(cuda_nccl_settle(c, &l->adding, &operation));
    NCCL_TRY(c, &operation, broadcast(numbers, numbers, 1, NCCL_F32, 0, comm, l->adding.stream));
    TRY(cuda_nccl_settle(c, &l->adding, &operation));
    CUDA_TRY(driver, event_record(l->end, l->adding.stream), "connecting GPUs");
    cuda_nccl_pending(l, operation, l->end);
    return cuda_nccl_wait(l, l->end);
}

Status cuda_sum_prepare(DeviceLinks *l)
{
    CudaDevice *device = l->comm->device;
    TRY(first_messages(l));
    TRY(write_chunks(l));
    for (uint32_t i = 0; i < l->sums.len; i++)
        CUDA_TRY(&device->driver, event_create(&l->sums.data[i].done, CUDA_EVENT_NO_TIMING),
                 "making an event on cuda:%d", device->index);
    return cuda_sum_load(device, comm_size(l->data), comm_rank(l->data), &l->module, &l->add);
}

/* ---- running */

/* What each rank adds goes to it, from all others. */
static Status gather(DeviceLinks *l, const CudaSum *sum, const CommOutside *operation)
{
    DeviceComm *c = l->comm;
    const uint32_t me = comm_rank(l->data), n_ranks = comm_size(l->data);
    const Range mine = range_of(sum, n_ranks, me);
    float *others = (float *)(void *)((char *)hal_buffer_address(l->memory) + l->others_at);
    CommSlice part;
    size_t at;
    NCCL_TRY(c, operation, group_start());
    for (uint32_t r = 0; r < n_ranks; r++)
        for (uint32_t i = 0; i < sum->n_slices && r != me; i++)
        {
            if (part_of(sum, i, range_of(sum, n_ranks, r), &part, &at))
                NCCL_TRY(c, operation,
                         send(part.src, part.n_elems, NCCL_F32, (int)r, l->adding.comm, l->adding.stream));
            if (part_of(sum, i, mine, &part, &at))
                NCCL_TRY(c, operation,
                         recv(others + (r - (r > me)) * stride_of(mine) + at, part.n_elems, NCCL_F32, (int)r,
                              l->adding.comm, l->adding.stream));
        }
    NCCL_TRY(c, operation, group_end());
    return cuda_nccl_settle(c, &l->adding, operation);
}

/* What each rank has added, or has for all, goes to all others. */
static Status spread(DeviceLinks *l, const CudaSum *sum, const CommOutside *operation)
{
    DeviceComm *c = l->comm;
    const uint32_t me = comm_rank(l->data), n_ranks = comm_size(l->data);
    CommSlice part;
    size_t at;
    NCCL_TRY(c, operation, group_start());
    for (uint32_t r = 0; r < n_ranks; r++)
        for (uint32_t i = 0; i < sum->n_slices; i++)
        {
            if (!part_of(sum, i, range_of(sum, n_ranks, r), &part, &at))
                continue;
            void *in_place = sum->kind == DEVICE_BCAST && r == me ? (void *)(uintptr_t)part.src : part.dst;
            NCCL_TRY(c, operation,
                     broadcast(in_place, in_place, part.n_elems, NCCL_F32, (int)r, l->adding.comm, l->adding.stream));
        }
    NCCL_TRY(c, operation, group_end());
    return cuda_nccl_settle(c, &l->adding, operation);
}

static CommOutside start(const DeviceLinks *l, const CudaSum *sum)
{
    static const CommKind kinds[] = {[DEVICE_ALL_REDUCE] = COMM_KIND_ALL_REDUCE,
                                     [DEVICE_REDUCE] = COMM_KIND_REDUCE,
                                     [DEVICE_BCAST] = COMM_KIND_BCAST};
    return comm_outside_start(l->data, kinds[sum->kind], sum->kind == DEVICE_ALL_REDUCE ? COMM_NO_RANK : sum->root,
                              sum->bucket, sum->n_elems * sizeof(float));
}

Status device_links_sum_start(DeviceLinks *l, uint32_t number)
{
    const CudaDevice *device = l->comm->device;
    const CudaDriver *driver = &device->driver;
    const CudaSum *sum = &l->sums.data[number];
    const CuDevicePtr memory = (CuDevicePtr)(uintptr_t)hal_buffer_address(l->memory);
    const Range mine = range_of(sum, comm_size(l->data), comm_rank(l->data));
    const CommOutside operation = start(l, sum);
    TRY(cuda_enter(device));
    CUDA_TRY(driver, event_record(l->ready, device->stream), "ordering a sum");
    CUDA_TRY(driver, stream_wait(l->adding.stream, l->ready, 0), "ordering a sum");
    if (sum->kind != DEVICE_BCAST)
        TRY(gather(l, sum, &operation));
    TRY(cuda_sum_launch(device, l->add, l->adding.stream, sum->n_chunks,
                        memory + l->chunks_at + sum->first_chunk * sizeof(Chunk), memory + l->others_at,
                        (uint32_t)stride_of(mine)));
    if (sum->kind != DEVICE_REDUCE)
        TRY(spread(l, sum, &operation));
    CUDA_TRY(driver, event_record(sum->done, l->adding.stream), "ordering a sum");
    cuda_nccl_pending(l, operation, sum->done);
    return STATUS_OK;
}

Status device_links_sum_wait(DeviceLinks *l, uint32_t number)
{
    const CudaDevice *device = l->comm->device;
    const CudaSum *sum = &l->sums.data[number];
    cuda_nccl_await(l, sum->done);
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, stream_wait(device->stream, sum->done, 0), "ordering a sum");
    return STATUS_OK;
}
