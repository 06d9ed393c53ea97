/* The state of a run: params and optimizer state from initialisers, pretrained weights or a checkpoint, and into
 * checkpoints. */
#include "base/bug.h"
#include "ir/init.h"
#include "runtime/checkpoint.h"
#include "runtime/pretrained.h"
#include "runtime/trainer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- params: from initialisers, a file or a checkpoint */

/* Of that kind, and on this rank. */
static bool is_kind(const Trainer *t, const IrGlobalData *global, IrGlobalKind kind)
{
    return global->kind == kind && executor_has_global(t->executor, global->name);
}

static NamedTensor tensor_of(const IrGlobalData *global, const void *data)
{
    NamedTensor tensor = {
        .name = global->name, .elem = trainer_elem_of(&global->type), .rank = global->type.rank, .data = data};
    memcpy(tensor.dims, global->type.dims, sizeof tensor.dims);
    return tensor;
}

/* Sums that a run without decisions by norms does not keep: they begin here, at zero. */
static bool may_lack(const IrGlobalData *global)
{
    return strncmp(global->name, "grad_sq:", 8) == 0;
}

static Status read_tensors(Trainer *t, const Safetensors *file, IrGlobalKind kind)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (!is_kind(t, global, kind) || (may_lack(global) && !safetensors_find(file, global->name)))
            continue;
        void *host = malloc((size_t)ir_type_size_bytes(&global->type));
        if (!host)
            base_out_of_memory((size_t)ir_type_size_bytes(&global->type));
        NamedTensor expected = tensor_of(global, NULL);
        Status status = safetensors_read(file, &expected, host);
        if (status == STATUS_OK)
            status = executor_write_global(t->executor, global->name, host);
        free(host);
        TRY(status);
    }
    return STATUS_OK;
}

Status trainer_initialise(Trainer *t)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (!is_kind(t, global, IR_GLOBAL_PARAM) && !is_kind(t, global, IR_GLOBAL_STATE))
            continue;
        const char *init = ir_attrs_str(&global->attrs, IR_ATTR_init);
        if (global->type.dtype != DT_F32)
            return status_fail(STATUS_UNSUPPORTED, "param '%s' is %s; params are f32 so far", global->name,
                               dtype_name((DType)global->type.dtype));
        float *host = malloc((size_t)ir_type_size_bytes(&global->type));
        if (!host)
            base_out_of_memory((size_t)ir_type_size_bytes(&global->type));
        ir_init_fill(host, &global->type, init ? init : "zeros", t->options.seed, global->name);
        Status status = executor_write_global(t->executor, global->name, host);
        free(host);
        TRY(status);
    }
    return STATUS_OK;
}

/* The params of this rank that the weights have; the table of the others is told once. */
static Status read_weights(Trainer *t, const Pretrained *weights)
{
    StrBuf table = strbuf_make(t->arena);
    Status status = pretrained_compare(weights, t->m, !t->options.weights_partial, &table);
    if (table.len)
        trainer_note(t, "%s", strbuf_text(&table));
    TRY(status);
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        const NamedTensor *tensor;
        if (!is_kind(t, global, IR_GLOBAL_PARAM) || pretrained_match(weights, global, &tensor) > PRETRAINED_CAST)
            continue;
        float *host = malloc((size_t)ir_type_size_bytes(&global->type));
        if (!host)
            base_out_of_memory((size_t)ir_type_size_bytes(&global->type));
        status = pretrained_read(weights, global, host);
        if (status == STATUS_OK)
            status = executor_write_global(t->executor, global->name, host);
        free(host);
        TRY(status);
    }
    return STATUS_OK;
}

Status trainer_load_weights(Trainer *t)
{
    Pretrained *weights;
    TRY(pretrained_open(t->options.weights, &weights));
    Status status = read_weights(t, weights);
    pretrained_close(weights);
    return status;
}

Status trainer_resume(Trainer *t)
{
    StrBuf warnings = strbuf_make(t->arena);
    Checkpoint *checkpoint;
    TRY(checkpoint_open(t->options.out_dir, &warnings, &checkpoint));
    if (warnings.len)
        trainer_note(t, "%s", strbuf_text(&warnings));
    if (!checkpoint && !t->train && !t->options.weights)
        return status_fail(STATUS_BAD_INPUT, "there is no checkpoint in '%s'", t->options.out_dir);
    if (!checkpoint)
    {
        trainer_note(t, "no checkpoint in '%s': starting from the beginning", t->options.out_dir);
        return STATUS_OK;
    }
    const CheckpointState *state = checkpoint_state(checkpoint);
    Status status = STATUS_OK;
    if (t->options.digest && state->model_digest && *state->model_digest &&
        strcmp(state->model_digest, t->options.digest) != 0)
        status =
            status_fail(STATUS_BAD_INPUT, "checkpoint '%s' is of another model or job", checkpoint_folder(checkpoint));
    if (status == STATUS_OK && state->seed != t->options.seed)
        status =
            status_fail(STATUS_BAD_INPUT, "checkpoint '%s' has seed %llu, this run %llu", checkpoint_folder(checkpoint),
                        (unsigned long long)state->seed, (unsigned long long)t->options.seed);
    if (status == STATUS_OK)
        status = read_tensors(t, checkpoint_model(checkpoint), IR_GLOBAL_PARAM);
    if (status == STATUS_OK)
        status = read_tensors(t, checkpoint_optimizer(checkpoint), IR_GLOBAL_STATE);
    t->step = state->step;
    t->position = (SamplerPosition){.epoch = state->epoch, .consumed = state->consumed};
    if (status == STATUS_OK)
        trainer_note(t, "resumed from '%s' at step %llu", checkpoint_folder(checkpoint), (unsigned long long)t->step);
    checkpoint_close(checkpoint);
    return status;
}

Status trainer_refuse_used_folder(Trainer *t)
{
    Checkpoint *checkpoint = NULL;
    Status status = checkpoint_open(t->options.out_dir, NULL, &checkpoint);
    if (status == STATUS_OK && !checkpoint)
        return STATUS_OK;
    if (checkpoint)
        checkpoint_close(checkpoint);
    return status_fail(STATUS_BAD_INPUT,
                       "'%s' holds the checkpoints of a run: go on from them with --resume, or choose another --out",
                       t->options.out_dir);
}

/* ---- checkpoints */

static bool is_kept(const IrGlobalData *global)
{
    return global->kind == IR_GLOBAL_PARAM || global->kind == IR_GLOBAL_STATE;
}

/* By param and state, in the order of the globals, which is that of all ranks: the first rank that has it, which writes
 * it to checkpoints; -1: none has. Collective. */
static Status find_owners(const Trainer *t, Arena *arena, int64_t *owners)
{
    Comm *world = t->options.rank.world;
    const uint32_t n_ranks = world ? comm_size(world) : 1;
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
        n += is_kept(ir_global(t->m, g));
    uint8_t *mine = ARENA_ARRAY(arena, uint8_t, n + 1), *all = ARENA_ARRAY(arena, uint8_t, (n + 1) * n_ranks);
    uint32_t at = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
        if (is_kept(ir_global(t->m, g)))
            mine[at++] = executor_has_global(t->executor, ir_global(t->m, g)->name);
    memcpy(all, mine, n);
    if (world)
        TRY(comm_all_gather(world, mine, n, all));
    at = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        owners[g] = -1;
        if (!is_kept(ir_global(t->m, g)))
            continue;
        for (uint32_t r = n_ranks; r-- > 0;)
            owners[g] = all[(size_t)r * n + at] ? (int64_t)r : owners[g];
        at++;
    }
    return STATUS_OK;
}

static uint32_t count_kind(const Trainer *t, const int64_t *owners, IrGlobalKind kind)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
        n += ir_global(t->m, g)->kind == kind && owners[g] >= 0;
    return n;
}

/* Gradients can overflow while the loss is still finite: the step after would stop, but must not leave its ruins. */
static Status check_finite(const Trainer *t, const IrGlobalData *global, const void *host)
{
    const float *values = host;
    const int64_t n = ir_type_n_elems(&global->type);
    if (global->type.dtype != DT_F32)
        return STATUS_OK;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return status_fail(STATUS_NON_FINITE,
                               "step %llu left '%s' with numbers that are not finite; no checkpoint of it is written",
                               (unsigned long long)t->step, global->name);
    return STATUS_OK;
}

enum
{
    CHECKPOINT_TAG = 1 << 19 /* in the world, where programs send nothing */
};

/* On rank 0 and on the owner: host gets the tensor, and rank 0 has it in the end. */
static Status fetch(Trainer *t, const IrGlobalData *global, int64_t owner, void *host)
{
    const size_t size_bytes = (size_t)ir_type_size_bytes(&global->type);
    if (owner != (int64_t)t->rank)
        return comm_recv(t->options.rank.world, (uint32_t)owner, CHECKPOINT_TAG, host, size_bytes);
    TRY(executor_read_global(t->executor, global->name, host));
    return t->rank == 0 ? STATUS_OK : comm_send(t->options.rank.world, 0, CHECKPOINT_TAG, host, size_bytes);
}

Status trainer_fetch_param(Trainer *t, const char *name, void *host)
{
    const IrGlobal g = ir_global_find(t->m, name);
    Arena *scratch = arena_create();
    int64_t *owners = ARENA_ARRAY(scratch, int64_t, t->m->globals.len);
    Status status = find_owners(t, scratch, owners);
    if (status == STATUS_OK && owners[g] < 0)
        status = status_fail(STATUS_IO, "no rank has '%s'", name);
    if (status == STATUS_OK && (t->rank == 0 || owners[g] == (int64_t)t->rank))
        status = fetch(t, ir_global(t->m, g), owners[g], host);
    arena_destroy(scratch);
    return status;
}

/* Rank 0 gets every tensor of that kind, its own and those that the owners send, in the order of the globals. On the
 * other ranks nothing is kept. */
static Status gather_tensors(Trainer *t, const int64_t *owners, IrGlobalKind kind, NamedTensor *tensors, void **hosts)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        const int64_t owner = owners[g];
        if (global->kind != kind || owner < 0 || (t->rank != 0 && owner != (int64_t)t->rank))
            continue;
        const size_t size_bytes = (size_t)ir_type_size_bytes(&global->type);
        void *host = malloc(size_bytes);
        if (!host)
            base_out_of_memory(size_bytes);
        hosts[n] = host;
        tensors[n++] = tensor_of(global, host);
        const Status status = fetch(t, global, owner, host);
        if (t->rank != 0)
        {
            free(host);
            hosts[--n] = NULL;
        }
        TRY(status);
    }
    return STATUS_OK;
}

static Status save_tensors(Trainer *t, const NamedTensor *tensors, uint32_t n_params, uint32_t n_states)
{
    for (uint32_t i = 0; i < n_params + n_states; i++)
        TRY(check_finite(t, ir_global(t->m, ir_global_find(t->m, tensors[i].name)), tensors[i].data));
    CheckpointState state = {.step = t->step,
                             .epoch = t->position.epoch,
                             .consumed = t->position.consumed,
                             .seed = t->options.seed,
                             .model_digest = t->options.digest,
                             .metrics_json = t->options.extra};
    return checkpoint_write(t->options.out_dir, &state, tensors, n_params, tensors + n_params, n_states,
                            t->options.keep_last ? t->options.keep_last : CHECKPOINT_KEEP_DEFAULT);
}

static Status write_checkpoint(Trainer *t, Arena *scratch)
{
    int64_t *owners = ARENA_ARRAY(scratch, int64_t, t->m->globals.len);
    if (t->options.rank.world)
        comm_set_place(t->options.rank.world, "checkpoint", (int64_t)t->step, -1);
    TRY(find_owners(t, scratch, owners));
    const uint32_t n_params = count_kind(t, owners, IR_GLOBAL_PARAM), n_states = count_kind(t, owners, IR_GLOBAL_STATE);
    NamedTensor *tensors = ARENA_ARRAY(scratch, NamedTensor, n_params + n_states + 1);
    void **hosts = ARENA_ARRAY(scratch, void *, n_params + n_states + 1);
    Status status = gather_tensors(t, owners, IR_GLOBAL_PARAM, tensors, hosts);
    if (status == STATUS_OK)
        status = gather_tensors(t, owners, IR_GLOBAL_STATE, tensors + n_params, hosts + n_params);
    if (status == STATUS_OK)
        status = trainer_agree(t, t->rank == 0 ? save_tensors(t, tensors, n_params, n_states) : STATUS_OK);
    for (uint32_t i = 0; i < n_params + n_states; i++)
        free(hosts[i]);
    return status;
}

Status trainer_write_checkpoint(Trainer *t)
{
    if (!t->options.out_dir)
        return STATUS_OK;
    Arena *scratch = arena_create();
    const Status status = write_checkpoint(t, scratch);
    arena_destroy(scratch);
    TRY(status);
    return t->log ? metrics_log_event(t->log, t->step, "checkpoint", NULL, 0) : STATUS_OK;
}
