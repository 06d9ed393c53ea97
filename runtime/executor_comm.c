/* What a step function says to other ranks. GPUs exchange by themselves (device_comm.h), or ranks exchange host memory:
 * of a device with memory of its own, each message and each part of a sum has a mirror on the host, which it goes
 * through. */
#include "base/strbuf.h"
#include "runtime/executor_program.h"
#include "runtime/fault.h"

#include <stdlib.h>
#include <time.h>

enum
{
    MIRROR_ALIGN = 64,
    MIRRORS_BYTES = 4 << 20
};

double executor_now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- building */

/* "recv tag 3 (unit 4, model.xml:12:3)" */
static const char *place_of(Executor *x, const IrOpData *data)
{
    StrBuf text = strbuf_make(x->arena);
    const IrAttr *tag = ir_attrs_find(&data->attrs, IR_ATTR_tag), *bucket = ir_attrs_find(&data->attrs, IR_ATTR_bucket);
    strbuf_add(&text, ir_op_info(data->code)->name);
    if (tag || bucket)
        strbuf_addf(&text, " %s %lld", tag ? "tag" : "bucket", (long long)(tag ? tag : bucket)->i);
    if (data->unit)
        strbuf_addf(&text, " (unit %u", data->unit);
    if (data->unit && data->span.file)
        strbuf_addf(&text, ", %s:%u:%u", x->m->files.data[data->span.file - 1], data->span.line, data->span.col);
    if (data->unit)
        strbuf_add(&text, ")");
    return strbuf_text(&text);
}

static bool is_mirrored(const Executor *x)
{
    return !hal_device_uses_host_memory(x->device) && !x->links;
}

static InstrKind kind_of(IrCode code)
{
    switch (code)
    {
    case IR_send:
        return DO_SEND;
    case IR_recv:
        return DO_RECV;
    case IR_all_reduce:
        return DO_ALL_REDUCE;
    case IR_reduce:
        return DO_REDUCE;
    case IR_bcast:
        return DO_BCAST;
    default:
        return DO_WAIT;
    }
}

static DeviceSumKind sum_kind_of(InstrKind kind)
{
    if (kind == DO_ALL_REDUCE)
        return DEVICE_ALL_REDUCE;
    return kind == DO_REDUCE ? DEVICE_REDUCE : DEVICE_BCAST;
}

static size_t slice_bytes(const CommSlice *slice)
{
    return slice->n_elems * sizeof(float);
}

/* A part of a larger piece. */
static Status take_mirror(Executor *x, size_t size_bytes, void **out_mirror)
{
    const size_t wanted = (size_bytes + MIRROR_ALIGN - 1) / MIRROR_ALIGN * MIRROR_ALIGN;
    if (x->mirrors.len == 0 || x->mirrored_bytes + wanted > x->mirrors_bytes)
    {
        void *piece;
        x->mirrors_bytes = wanted > MIRRORS_BYTES ? wanted : MIRRORS_BYTES;
        x->mirrored_bytes = 0;
        TRY(hal_pinned_create(x->device, x->mirrors_bytes, &piece));
        vec_push(x->arena, &x->mirrors, piece);
    }
    *out_mirror = (char *)x->mirrors.data[x->mirrors.len - 1] + x->mirrored_bytes;
    x->mirrored_bytes += wanted;
    return STATUS_OK;
}

void executor_mirrors_drop(Executor *x)
{
    for (uint32_t i = 0; i < x->mirrors.len; i++)
        hal_pinned_destroy(x->device, x->mirrors.data[i]);
    x->mirrors.len = 0;
}

static Status mirror_all(Executor *x, const CommSlice *slices, uint32_t n, const CommSlice **out_mirrors)
{
    CommSlice *mirrors = ARENA_ARRAY(x->arena, CommSlice, n);
    *out_mirrors = mirrors;
    for (uint32_t i = 0; i < n; i++)
    {
        void *src, *dst;
        TRY(take_mirror(x, slice_bytes(&slices[i]), &src));
        dst = src;
        if (slices[i].dst != slices[i].src)
            TRY(take_mirror(x, slice_bytes(&slices[i]), &dst));
        mirrors[i] = (CommSlice){.src = src, .dst = dst, .n_elems = slices[i].n_elems};
    }
    return STATUS_OK;
}

static Status add_slices(Executor *x, Instr *instr, const IrOpData *data, char *const *address)
{
    CommSlice *slices = ARENA_ARRAY(x->arena, CommSlice, data->n_operands);
    for (uint32_t i = 0; i < data->n_operands; i++)
        slices[i] = (CommSlice){.src = (const float *)(const void *)address[data->operands[i]],
                                .dst = (float *)(void *)address[data->results[i]],
                                .n_elems = (size_t)ir_type_n_elems(ir_value_type(x->m, data->operands[i]))};
    instr->n_slices = data->n_operands;
    instr->slices = slices;
    if (x->links)
        instr->link =
            device_links_sum(x->links, sum_kind_of(instr->kind), instr->bucket, instr->root, slices, instr->n_slices);
    if (!is_mirrored(x))
        return STATUS_OK;
    instr->on_device = slices;
    return mirror_all(x, slices, data->n_operands, &instr->slices);
}

/* A wait is for the sum of its start, and brings its results to the device, where they are mirrored and this rank gets
 * any. */
static void find_start(const Executor *x, const Program *program, Instr *wait)
{
    const Instr *start = program->instrs.data + program->instrs.len;
    do
    {
        ENSURE(start > program->instrs.data);
        start--;
    } while ((start->kind != DO_ALL_REDUCE && start->kind != DO_REDUCE && start->kind != DO_BCAST) ||
             start->bucket != wait->bucket);
    wait->link = start->link;
    if (!is_mirrored(x))
        return;
    const bool is_root = start->root == comm_rank(x->comm->data);
    if ((start->kind == DO_REDUCE && !is_root) || (start->kind == DO_BCAST && is_root))
        return;
    wait->slices = start->slices;
    wait->on_device = start->on_device;
    wait->n_slices = start->n_slices;
}

Status executor_build_comm(Executor *x, Program *program, IrOp op, char *const *address)
{
    const IrOpData *data = ir_op(x->m, op);
    if (!x->comm)
        return status_fail(STATUS_UNSUPPORTED, "the program is one of several ranks: '%s' has nobody to talk to",
                           ir_op_info(data->code)->name);
    Instr instr = {.kind = kind_of(data->code),
                   .op = op,
                   .peer = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_peer, 0),
                   .tag = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_tag, 0),
                   .root = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_root, 0),
                   .bucket = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_bucket, 0),
                   .place = place_of(x, data),
                   .profile_row = executor_profile_row(x, ir_op_info(data->code)->name)};
    if (instr.kind == DO_SEND || instr.kind == DO_RECV)
    {
        const IrValue value = instr.kind == DO_SEND ? data->operands[0] : data->results[0];
        instr.size_bytes = (size_t)ir_type_size_bytes(ir_value_type(x->m, value));
        instr.src = instr.dst = address[value];
        if (x->links)
            instr.link = device_links_message(x->links, instr.kind == DO_SEND, instr.peer, instr.tag, instr.size_bytes,
                                              instr.place, (int32_t)ir_attrs_int(&data->attrs, IR_ATTR_micro, -1));
        instr.mirror = address[value];
        if (is_mirrored(x))
            TRY(take_mirror(x, instr.size_bytes, &instr.mirror));
    }
    else if (instr.kind != DO_WAIT)
        TRY(add_slices(x, &instr, data, address));
    else
        find_start(x, program, &instr);
    vec_push(x->arena, &program->instrs, instr);
    return STATUS_OK;
}

/* ---- running */

static Status halve(const Executor *x, const CommSlice *slice)
{
    float *numbers = malloc(slice_bytes(slice));
    if (!numbers)
        base_out_of_memory(slice_bytes(slice));
    Status status = hal_copy(x->device, HAL_COPY_FROM_DEVICE, numbers, slice->dst, slice_bytes(slice));
    for (size_t e = 0; e < slice->n_elems && status == STATUS_OK; e++)
        numbers[e] *= 0.5F;
    if (status == STATUS_OK)
        status = hal_copy(x->device, HAL_COPY_TO_DEVICE, slice->dst, numbers, slice_bytes(slice));
    free(numbers);
    return status;
}

/* A fault on purpose (runtime/fault.h): a rank that keeps what is not the sum, of its first bucket of gradients. */
static Status undo_sum(const Executor *x, uint32_t bucket)
{
    const Program *train = executor_find_program(x, "train");
    const Instr *sum = train->instrs.data, *end = sum + train->instrs.len;
    while (sum < end && (sum->kind != DO_REDUCE || sum->root != comm_rank(x->comm->data)))
        sum++;
    for (uint32_t k = 0; sum < end && sum->bucket == bucket && k < sum->n_slices; k++)
        TRY(halve(x, sum->on_device ? &sum->on_device[k] : &sum->slices[k]));
    return STATUS_OK;
}

static Status to_mirror(const Executor *x, void *mirror, const void *src, size_t size_bytes)
{
    return mirror == src ? STATUS_OK : hal_copy(x->device, HAL_COPY_FROM_DEVICE, mirror, src, size_bytes);
}

static Status from_mirror(const Executor *x, void *dst, const void *mirror, size_t size_bytes)
{
    return mirror == dst ? STATUS_OK : hal_copy(x->device, HAL_COPY_TO_DEVICE, dst, mirror, size_bytes);
}

/* What this rank puts into a sum, or has for all. */
static Status mirror_slices(const Executor *x, const Instr *instr)
{
    if (!instr->on_device || (instr->kind == DO_BCAST && instr->root != comm_rank(x->comm->data)))
        return STATUS_OK;
    for (uint32_t i = 0; i < instr->n_slices; i++)
        TRY(hal_copy(x->device, HAL_COPY_FROM_DEVICE, (void *)(uintptr_t)instr->slices[i].src, instr->on_device[i].src,
                     slice_bytes(&instr->slices[i])));
    return STATUS_OK;
}

static Status wait_for_bucket(Executor *x, const Instr *instr)
{
    if (x->links)
        TRY(device_links_sum_wait(x->links, instr->link));
    else
        TRY(comm_bucket_wait(x->comm->data, instr->bucket));
    for (uint32_t i = 0; i < instr->n_slices; i++)
        TRY(from_mirror(x, instr->on_device[i].dst, instr->slices[i].dst, slice_bytes(&instr->slices[i])));
    return fault_skips_sum(comm_rank(x->comm->world), x->step) ? undo_sum(x, instr->bucket) : STATUS_OK;
}

static Status wait_on_device(Executor *x, const Instr *instr)
{
    const uint32_t mark = EXECUTOR_MARK_WAITS + 2 * x->n_waits;
    if (x->marks_waits)
        TRY(hal_mark(x->device, mark));
    TRY(instr->kind == DO_RECV ? device_links_recv(x->links, instr->link, instr->dst) : wait_for_bucket(x, instr));
    if (!x->marks_waits)
        return STATUS_OK;
    x->n_waits++;
    return hal_mark(x->device, mark + 1);
}

static Status communicate_on_device(Executor *x, const Instr *instr)
{
    switch (instr->kind)
    {
    case DO_SEND:
        return device_links_send(x->links, instr->link, instr->src);
    case DO_RECV:
    case DO_WAIT:
        return wait_on_device(x, instr);
    default:
        return device_links_sum_start(x->links, instr->link);
    }
}

Status executor_sync(Executor *x)
{
    return x->links ? device_links_finish(x->links) : hal_sync(x->device);
}

Status executor_communicate(Executor *x, const Instr *instr)
{
    const int64_t micro = ir_attrs_int(&ir_op(x->m, instr->op)->attrs, IR_ATTR_micro, -1);
    const double start_s = executor_now_s(CLOCK_MONOTONIC);
    const ExecutorComm *comm = x->comm;
    Status status = STATUS_OK;
    comm_set_place(comm->world, instr->place, (int64_t)x->step, (int32_t)micro);
    if (x->links)
        return communicate_on_device(x, instr);
    switch (instr->kind)
    {
    case DO_SEND:
        status = to_mirror(x, instr->mirror, instr->src, instr->size_bytes);
        if (status == STATUS_OK)
            status = comm_send(comm->pipe, instr->peer, instr->tag, instr->mirror, instr->size_bytes);
        break;
    case DO_RECV:
        status = comm_recv(comm->pipe, instr->peer, instr->tag, instr->mirror, instr->size_bytes);
        if (status == STATUS_OK)
            status = from_mirror(x, instr->dst, instr->mirror, instr->size_bytes);
        break;
    case DO_ALL_REDUCE:
        TRY(mirror_slices(x, instr));
        return comm_all_reduce_start(comm->data, instr->bucket, instr->slices, instr->n_slices);
    case DO_REDUCE:
        TRY(mirror_slices(x, instr));
        return comm_reduce_start(comm->data, instr->bucket, instr->root, instr->slices, instr->n_slices);
    case DO_BCAST:
        TRY(mirror_slices(x, instr));
        return comm_bcast_start(comm->data, instr->bucket, instr->root, instr->slices, instr->n_slices);
    default:
        status = wait_for_bucket(x, instr);
    }
    *(x->updating ? &x->times.update_wait_s : &x->times.pipe_wait_s) += executor_now_s(CLOCK_MONOTONIC) - start_s;
    return status;
}
