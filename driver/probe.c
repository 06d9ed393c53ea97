#include "driver/probe.h"

#include "base/bug.h"
#include "driver/session.h"
#include "passes/manager.h"
#include "passes/probe.h"
#include "runtime/pool.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MOST_ROWS = 32 /* the similarities of so many samples are told: rows x rows numbers of each layer */
};

typedef struct
{
    const Session *s;
    Arena *arena;
    Diag *diag;
    Arena *module_arena;
    IrModule *m;
    Executor *executor;
    uint32_t n_samples, rows;
} Run;

static int64_t micro_batches(const Session *s)
{
    return (s->job->train.batch + MOST_ROWS - 1) / MOST_ROWS;
}

/* ---- the program */

static Status make_module(Run *r)
{
    Session here = *r->s; /* with an arena that goes when this is over */
    Job *job;
    const char *why;
    here.arena = r->arena;
    r->diag = diag_create(r->arena);
    TRY(session_load_length(&here, micro_batches(r->s), 0, r->diag, &job));
    ENSURE(job->train.rows == r->rows);
    r->module_arena = arena_create();
    r->m = ir_module_clone(r->module_arena, job->module);
    if (!probe_make(r->arena, r->m, job->layers, job->n_layers, &why))
        return status_fail(STATUS_UNSUPPORTED, "policy=\"plasticity\" wants to see what the layers make: %s", why);
    const PassOptions *o = &r->s->options->pass_options;
    PassOptions passes = {
        .verify_each = o->verify_each, .roundtrip_each = o->roundtrip_each, .reproducer_dir = o->reproducer_dir};
    return pass_manager_run(&r->module_arena, &r->m, r->diag, probe_pipeline, &passes);
}

static Status make_executor(Run *r)
{
    const Session *s = r->s;
    ExecutorModule module = {.m = r->m};
    if (!s->device)
        return executor_create_interp(&module, 1, NULL, &r->executor);
    HalKernelFile file;
    const IrModule *m = r->m;
    TRY(hal_kernels_build(r->arena, s->options->device, &m, 1, (uint32_t)pool_n_cores(), &file));
    module.kernels_path = file.path;
    return executor_create(s->device, &module, 1, NULL, NULL, &r->executor);
}

/* ---- what goes into it */

static Status write_input(const Run *r, const IrGlobalData *global, const uint64_t *samples, void *host)
{
    const Dataset *train = r->s->train;
    const char *field = global->name + strlen("batch.");
    BatchSlot slot = {.data = host};
    const bool known = elem_by_name(dtype_name((DType)global->type.dtype), &slot.elem);
    ENSURE(known);
    if (strcmp(field, "mask") == 0 || strcmp(field, "sample") == 0)
        for (uint32_t k = 0; k < r->rows; k++)
            if (*field == 'm')
                ((float *)host)[k] = k < r->n_samples ? 1.0F : 0.0F;
            else
                ((int32_t *)host)[k] = (int32_t)k;
    else if (dataset_field_find(train, field, &slot.field))
        TRY(dataset_fill_rows(train, &(DatasetPass){.seed = (uint64_t)r->s->job->train.seed}, &slot, samples, 0,
                              r->n_samples));
    return executor_write_global(r->executor, global->name, host);
}

static Status write_inputs(const Run *r)
{
    const Session *s = r->s;
    const Sampler sampler =
        sampler_make(dataset_n_samples(s->train), (uint64_t)s->job->train.seed, s->job->data.shuffle);
    uint64_t samples[MOST_ROWS];
    for (uint32_t k = 0; k < r->n_samples; k++)
        samples[k] = sampler_at(&sampler, 0, k);
    for (IrGlobal g = 1; g < r->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(r->m, g);
        if (global->kind != IR_GLOBAL_INPUT || strncmp(global->name, "batch.", 6) != 0 ||
            !executor_has_global(r->executor, global->name))
            continue;
        void *host = calloc(1, (size_t)ir_type_size_bytes(&global->type));
        if (!host)
            base_out_of_memory((size_t)ir_type_size_bytes(&global->type));
        const Status status = write_input(r, global, samples, host);
        free(host);
        TRY(status);
    }
    return STATUS_OK;
}

/* From whoever has them. Without an executor: of another rank. Collective. */
static Status write_params(const Run *r, Trainer *trainer)
{
    const IrModule *m = r->s->job->module;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        if (global->kind != IR_GLOBAL_PARAM)
            continue;
        const size_t size_bytes = (size_t)ir_type_size_bytes(&global->type);
        void *host = malloc(size_bytes);
        if (!host)
            base_out_of_memory(size_bytes);
        Status status = trainer_fetch_param(trainer, global->name, host);
        if (status == STATUS_OK && r->executor && executor_has_global(r->executor, global->name))
            status = executor_write_global(r->executor, global->name, host);
        free(host);
        TRY(status);
    }
    return STATUS_OK;
}

/* ---- running */

static Status run(Run *r, Trainer *trainer, Probe *out)
{
    const Session *s = r->s;
    const size_t n = (size_t)r->rows * r->rows;
    TRY(write_inputs(r));
    TRY(write_params(r, trainer));
    TRY(executor_run(r->executor, "probe"));
    out->grams = ARENA_ARRAY(s->arena, float, n * s->job->n_layers);
    for (uint32_t layer = 0; layer < s->job->n_layers; layer++)
        TRY(executor_read_global(r->executor, arena_printf(r->arena, "gram.%u", layer), out->grams + n * layer));
    return STATUS_OK;
}

uint32_t probe_rows(const Session *s)
{
    const int64_t n_micro = micro_batches(s);
    return (uint32_t)((s->job->train.batch + n_micro - 1) / n_micro);
}

Status probe_run(Session *s, Trainer *trainer, Probe *out_probe)
{
    Run r = {.s = s, .rows = probe_rows(s)};
    const uint64_t n = dataset_n_samples(s->train);
    r.n_samples = n < r.rows ? (uint32_t)n : r.rows;
    *out_probe = (Probe){.n_samples = r.n_samples, .rows = r.rows};
    if (s->ranks.rank != 0)
        return write_params(&r, trainer);
    r.arena = arena_create();
    Status status = make_module(&r);
    if (status != STATUS_OK)
        driver_print_diag(r.diag);
    if (status == STATUS_OK)
        status = make_executor(&r);
    if (status == STATUS_OK)
        status = run(&r, trainer, out_probe);
    executor_destroy(r.executor);
    if (r.module_arena)
        arena_destroy(r.module_arena);
    arena_destroy(r.arena);
    return status;
}
