/* ptc predict: the values of <output> for every sample of the test split, as JSON lines or safetensors. */
#include "base/bug.h"
#include "driver/progress.h"
#include "driver/session.h"
#include "runtime/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct
{
    const char *name, *global;
    const IrType *type; /* of a batch */
    Elem elem;
    size_t sample_bytes;
    void *batch;
    char *all; /* safetensors: of all samples; NULL otherwise */
} Output;

typedef struct
{
    Session *session;
    VEC(Output) outputs;
    uint64_t n_samples;
    bool as_lines; /* else safetensors */
    FILE *lines;
} Prediction;

static void *allocate(size_t n_bytes)
{
    void *bytes = malloc(n_bytes);
    if (!bytes)
        base_out_of_memory(n_bytes);
    return bytes;
}

static void find_outputs(Prediction *p)
{
    static const char start[] = FRONTEND_OUTPUT_START, end[] = FRONTEND_OUTPUT_END;
    const Session *s = p->session;
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(s->m, g);
        const size_t n = strlen(global->name);
        if (global->kind != IR_GLOBAL_OUTPUT || strncmp(global->name, start, strlen(start)) != 0)
            continue;
        Output output = {.name = arena_strndup(s->arena, global->name + strlen(start), n - strlen(start) - strlen(end)),
                         .global = global->name,
                         .type = &global->type};
        if (!elem_by_name(dtype_name((DType)global->type.dtype), &output.elem))
            BUG("no storage for %s", dtype_name((DType)global->type.dtype));
        const size_t batch_bytes = (size_t)ir_type_size_bytes(&global->type);
        output.sample_bytes = batch_bytes / (size_t)global->type.dims[0];
        output.batch = allocate(batch_bytes);
        if (!p->as_lines)
            output.all = allocate(output.sample_bytes * p->n_samples);
        vec_push(s->arena, &p->outputs, output);
    }
}

/* ---- JSON */

/* Nine digits give an f32 back; what is not finite is null. */
static void print_number(FILE *out, Elem elem, const char *at)
{
    int32_t whole;
    float real;
    if (elem == ELEM_I32)
    {
        memcpy(&whole, at, sizeof whole);
        fprintf(out, "%d", whole);
        return;
    }
    memcpy(&real, at, sizeof real);
    if (isfinite(real))
        fprintf(out, "%.9g", (double)real);
    else
        fputs("null", out);
}

/* The elements of the axes from `axis` on; returns the place behind them. */
static const char *print_axes(FILE *out, const Output *o, int axis, const char *at)
{
    if (axis == o->type->rank)
    {
        print_number(out, o->elem, at);
        return at + elem_size_bytes(o->elem);
    }
    for (int64_t i = 0; i < o->type->dims[axis]; i++)
    {
        fputs(i ? "," : "[", out);
        at = print_axes(out, o, axis + 1, at);
    }
    fputc(']', out);
    return at;
}

/* ---- a batch */

static Status take_batch(void *context, uint64_t first, uint32_t n)
{
    Prediction *p = context;
    for (uint32_t i = 0; i < p->outputs.len; i++)
    {
        const Output *o = &p->outputs.data[i];
        TRY(executor_read_global(p->session->executor, o->global, o->batch));
        if (o->all)
            memcpy(o->all + o->sample_bytes * first, o->batch, o->sample_bytes * n);
    }
    for (uint32_t k = 0; p->as_lines && k < n; k++)
    {
        for (uint32_t i = 0; i < p->outputs.len; i++)
        {
            const Output *o = &p->outputs.data[i];
            fprintf(p->lines, "%s\"%s\":", i ? "," : "{", o->name);
            print_axes(p->lines, o, 1, (const char *)o->batch + o->sample_bytes * k);
        }
        fputs("}\n", p->lines);
    }
    return STATUS_OK;
}

static Status write_tensors(const Prediction *p)
{
    Arena *arena = p->session->arena;
    NamedTensor *tensors = ARENA_ARRAY(arena, NamedTensor, p->outputs.len);
    for (uint32_t i = 0; i < p->outputs.len; i++)
    {
        const Output *o = &p->outputs.data[i];
        tensors[i] = (NamedTensor){.name = o->name, .elem = o->elem, .rank = o->type->rank, .data = o->all};
        memcpy(tensors[i].dims, o->type->dims, sizeof *o->type->dims * o->type->rank);
        tensors[i].dims[0] = (int64_t)p->n_samples;
    }
    return safetensors_write(p->session->options->output, tensors, p->outputs.len, NULL, 0, NULL);
}

static Status run_batches(Prediction *p)
{
    Session *s = p->session;
    Progress progress = progress_make(s->results, s->n_results);
    TrainerObserver observer = progress_observer(&progress);
    Trainer *trainer;
    TRY(session_trainer(s, p->lines == stdout ? NULL : &observer, true, NULL, NULL, &trainer));
    Status status = trainer_visit_tests(trainer, take_batch, p);
    trainer_destroy(trainer);
    return status;
}

static Status write_all(Prediction *p)
{
    if (p->as_lines)
        TRY(driver_open_output(p->session->options, &p->lines));
    Status status = run_batches(p);
    if (!p->as_lines)
        return status == STATUS_OK ? write_tensors(p) : status;
    Status closed = driver_close_output(p->session->options, p->lines);
    return status == STATUS_OK ? closed : status;
}

static Status predict(Session *s)
{
    const char *path = s->options->output, *end = path ? strrchr(path, '.') : NULL;
    Prediction p = {.session = s};
    if (!s->options->out_dir && !s->job->train.weights)
        return status_fail(STATUS_USAGE, "ptc predict wants --out (a folder with checkpoints) or --weights");
    s->job->data.n_buckets = 0; /* every sample as long as the longest */
    TRY(session_open_data(s));
    if (!s->test)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no test data", s->options->operand);
    TRY(session_compile(s));
    TRY(session_build(s));
    dataset_close(s->train);
    s->train = NULL;
    p.n_samples = dataset_n_samples(s->test);
    p.as_lines = !end || strcmp(end, ".safetensors") != 0;
    find_outputs(&p);
    if (!p.outputs.len)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no <output>: nothing to predict", s->options->operand);
    Status status = write_all(&p);
    for (uint32_t i = 0; i < p.outputs.len; i++)
    {
        free(p.outputs.data[i].batch);
        free(p.outputs.data[i].all);
    }
    return status;
}

Status cmd_predict(Arena *arena, const Options *options)
{
    Session session;
    Options here = *options;
    here.resume = options->out_dir != NULL;
    here.with_outputs = true;
    Status status = session_load(arena, &here, &session);
    if (status == STATUS_OK)
        status = predict(&session);
    return session_close(&session, status);
}
