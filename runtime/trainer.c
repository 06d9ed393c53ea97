/* The training loop of one rank. */
#include "runtime/trainer.h"

#include "base/bug.h"
#include "ir/init.h"
#include "runtime/checkpoint.h"
#include "runtime/metrics_log.h"
#include "runtime/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef struct
{
    const char *global; /* "batch.images" */
    const char *field;  /* "images" */
    const IrType *type;
    Elem elem;
    void *host; /* one batch */
} BatchInput;

struct Trainer
{
    Arena *arena;
    Executor *executor;
    const IrModule *m;
    const Dataset *train, *test;
    TrainerOptions options;
    VEC(BatchInput) inputs;
    float *mask;
    int32_t *sample;
    uint64_t *indices;
    BatchSlot *slots;
    uint64_t step; /* done */
    uint64_t total_steps;
    SamplerPosition position;
    MetricsLog *log;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void note(Trainer *t, const char *format, ...)
{
    if (!t->options.observer.note)
        return;
    va_list args;
    va_start(args, format);
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    t->options.observer.note(t->options.observer.context, text);
}

/* ---- inputs */

static bool has_global(const Trainer *t, const char *name)
{
    return ir_global_find(t->m, name) != 0;
}

static Elem elem_of(const IrType *type)
{
    Elem elem = ELEM_F32;
    if (!elem_by_name(dtype_name((DType)type->dtype), &elem))
        BUG("no storage for %s", dtype_name((DType)type->dtype));
    return elem;
}

static Status check_field(const Dataset *dataset, const BatchInput *input)
{
    uint32_t field;
    if (!dataset_field_find(dataset, input->field, &field))
        return status_fail(STATUS_BAD_INPUT, "the model's input '%s' is no field of the data", input->field);
    return dataset_check_slot(dataset, field, input->elem, input->type->rank - 1u, input->type->dims + 1);
}

static Status find_inputs(Trainer *t)
{
    const uint32_t batch = t->options.batch;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (global->kind != IR_GLOBAL_INPUT || strncmp(global->name, "batch.", 6) != 0 ||
            strcmp(global->name, "batch.mask") == 0 || strcmp(global->name, "batch.sample") == 0)
            continue;
        ENSURE(global->type.rank >= 1 && global->type.dims[0] == batch);
        BatchInput input = {.global = global->name,
                            .field = global->name + 6,
                            .type = &global->type,
                            .elem = elem_of(&global->type),
                            .host = arena_alloc(t->arena, (size_t)ir_type_size_bytes(&global->type))};
        if (t->train)
            TRY(check_field(t->train, &input));
        if (t->test)
            TRY(check_field(t->test, &input));
        vec_push(t->arena, &t->inputs, input);
    }
    t->mask = ARENA_ARRAY(t->arena, float, batch);
    t->sample = ARENA_ARRAY(t->arena, int32_t, batch);
    t->indices = ARENA_ARRAY(t->arena, uint64_t, batch);
    t->slots = ARENA_ARRAY(t->arena, BatchSlot, t->inputs.len);
    for (uint32_t i = 0; i < batch; i++)
        t->sample[i] = (int32_t)i;
    return STATUS_OK;
}

static Status write_batch(Trainer *t, const Dataset *dataset, uint32_t n)
{
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        t->slots[i] = (BatchSlot){.elem = input->elem, .data = input->host};
        bool found = dataset_field_find(dataset, input->field, &t->slots[i].field);
        ENSURE(found);
    }
    TRY(dataset_fill_batch(dataset, t->indices, n, t->options.batch, t->slots, t->inputs.len, t->mask));
    for (uint32_t i = 0; i < t->inputs.len; i++)
        TRY(executor_write_global(t->executor, t->inputs.data[i].global, t->inputs.data[i].host));
    if (has_global(t, "batch.mask"))
        TRY(executor_write_global(t->executor, "batch.mask", t->mask));
    if (has_global(t, "batch.sample"))
        TRY(executor_write_global(t->executor, "batch.sample", t->sample));
    return STATUS_OK;
}

static Status write_step_scalars(Trainer *t, double lr)
{
    float lr_f32 = (float)lr;
    int32_t step = (int32_t)(t->step + 1);
    int32_t key[2] = {(int32_t)t->options.seed, step};
    if (has_global(t, "lr"))
        TRY(executor_write_global(t->executor, "lr", &lr_f32));
    if (has_global(t, "step"))
        TRY(executor_write_global(t->executor, "step", &step));
    if (has_global(t, "rng.key"))
        TRY(executor_write_global(t->executor, "rng.key", key));
    return STATUS_OK;
}

/* ---- params: from initialisers, a file or a checkpoint */

static bool is_kind(const IrGlobalData *global, IrGlobalKind kind)
{
    return global->kind == kind;
}

static NamedTensor tensor_of(const IrGlobalData *global, const void *data)
{
    NamedTensor tensor = {
        .name = global->name, .elem = elem_of(&global->type), .rank = global->type.rank, .data = data};
    memcpy(tensor.dims, global->type.dims, sizeof tensor.dims);
    return tensor;
}

static Status read_tensors(Trainer *t, const Safetensors *file, IrGlobalKind kind)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (!is_kind(global, kind))
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

static Status initialise(Trainer *t)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (!is_kind(global, IR_GLOBAL_PARAM) && !is_kind(global, IR_GLOBAL_STATE))
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

static Status load_weights(Trainer *t)
{
    Safetensors *file;
    TRY(safetensors_open(t->options.weights, &file));
    Status status = read_tensors(t, file, IR_GLOBAL_PARAM);
    safetensors_close(file);
    return status;
}

static Status resume(Trainer *t)
{
    StrBuf warnings = strbuf_make(t->arena);
    Checkpoint *checkpoint;
    TRY(checkpoint_open(t->options.out_dir, &warnings, &checkpoint));
    if (warnings.len)
        note(t, "%s", strbuf_text(&warnings));
    if (!checkpoint)
    {
        note(t, "no checkpoint in '%s': starting from the beginning", t->options.out_dir);
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
        note(t, "resumed from '%s' at step %llu", checkpoint_folder(checkpoint), (unsigned long long)t->step);
    checkpoint_close(checkpoint);
    return status;
}

/* A new run must not overwrite another one's checkpoints. */
static Status refuse_used_folder(Trainer *t)
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

static uint32_t count_kind(const Trainer *t, IrGlobalKind kind)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
        n += is_kind(ir_global(t->m, g), kind);
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

static Status copy_to_host(Trainer *t, IrGlobalKind kind, NamedTensor *tensors, void **hosts)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (!is_kind(global, kind))
            continue;
        hosts[n] = malloc((size_t)ir_type_size_bytes(&global->type));
        if (!hosts[n])
            base_out_of_memory((size_t)ir_type_size_bytes(&global->type));
        tensors[n] = tensor_of(global, hosts[n]);
        n++;
        TRY(executor_read_global(t->executor, global->name, hosts[n - 1]));
        TRY(check_finite(t, global, hosts[n - 1]));
    }
    return STATUS_OK;
}

static Status write_checkpoint(Trainer *t)
{
    if (!t->options.out_dir)
        return STATUS_OK;
    uint32_t n_params = count_kind(t, IR_GLOBAL_PARAM), n_states = count_kind(t, IR_GLOBAL_STATE);
    Arena *scratch = arena_create();
    NamedTensor *tensors = ARENA_ARRAY(scratch, NamedTensor, n_params + n_states);
    void **hosts = ARENA_ARRAY(scratch, void *, n_params + n_states);
    Status status = copy_to_host(t, IR_GLOBAL_PARAM, tensors, hosts);
    if (status == STATUS_OK)
        status = copy_to_host(t, IR_GLOBAL_STATE, tensors + n_params, hosts + n_params);
    CheckpointState state = {.step = t->step,
                             .epoch = t->position.epoch,
                             .consumed = t->position.consumed,
                             .seed = t->options.seed,
                             .model_digest = t->options.digest};
    if (status == STATUS_OK)
        status = checkpoint_write(t->options.out_dir, &state, tensors, n_params, tensors + n_params, n_states,
                                  t->options.keep_last ? t->options.keep_last : CHECKPOINT_KEEP_DEFAULT);
    for (uint32_t i = 0; i < n_params + n_states; i++)
        free(hosts[i]);
    arena_destroy(scratch);
    TRY(status);
    return t->log ? metrics_log_event(t->log, t->step, "checkpoint", NULL, 0) : STATUS_OK;
}

/* ---- creation */

static Status make_out_dir(const char *dir)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "cannot make folder '%s': %s", dir, strerror(errno));
    return STATUS_OK;
}

static Status open_log(Trainer *t)
{
    if (!t->options.out_dir || !t->train)
        return STATUS_OK;
    TRY(make_out_dir(t->options.out_dir));
    const char *path = arena_printf(t->arena, "%s/metrics.jsonl", t->options.out_dir);
    return t->step ? metrics_log_resume(path, t->step, &t->log) : metrics_log_create(path, &t->log);
}

static Status set_up(Trainer *t)
{
    TRY(find_inputs(t));
    if (t->train)
    {
        Sampler sampler = sampler_make(dataset_n_samples(t->train), t->options.seed, t->options.shuffle);
        t->total_steps = t->options.epochs * sampler_batches_per_epoch(&sampler, t->options.batch);
        if (t->options.max_steps && t->options.max_steps < t->total_steps)
            t->total_steps = t->options.max_steps;
        t->options.lr.total_steps = t->total_steps;
    }
    TRY(initialise(t));
    if (t->options.weights)
        TRY(load_weights(t));
    if (t->options.resume && t->options.out_dir)
        TRY(resume(t));
    else if (t->train && t->options.out_dir)
        TRY(refuse_used_folder(t));
    return open_log(t);
}

Status trainer_create(Executor *executor, const IrModule *m, const Dataset *train, const Dataset *test,
                      const TrainerOptions *options, Trainer **out_trainer)
{
    ENSURE(options->n_metrics <= TRAINER_MAX_METRICS);
    Arena *arena = arena_create();
    Trainer *t = ARENA_NEW(arena, Trainer);
    *t = (Trainer){.arena = arena, .executor = executor, .m = m, .train = train, .test = test, .options = *options};
    Status status = set_up(t);
    if (status != STATUS_OK)
        trainer_destroy(t);
    else
        *out_trainer = t;
    return status;
}

void trainer_destroy(Trainer *t)
{
    if (!t)
        return;
    metrics_log_close(t->log);
    arena_destroy(t->arena);
}

uint64_t trainer_steps_done(const Trainer *t)
{
    return t->step;
}

uint64_t trainer_total_steps(const Trainer *t)
{
    return t->total_steps;
}

/* ---- evaluation */

static Status add_outputs(Trainer *t, const char *name, double *sum, double *weight)
{
    char global[256];
    double value;
    snprintf(global, sizeof global, "%s.sum", name);
    TRY(executor_read_scalar(t->executor, global, &value));
    *sum += value;
    snprintf(global, sizeof global, "%s.weight", name);
    TRY(executor_read_scalar(t->executor, global, &value));
    *weight += value;
    return STATUS_OK;
}

static double mean(double sum, double weight)
{
    return weight > 0 ? sum / weight : 0;
}

Status trainer_evaluate(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->test);
    double start_s = now_s();
    double sum[TRAINER_MAX_METRICS + 1] = {0}, weight[TRAINER_MAX_METRICS + 1] = {0};
    Sampler sampler = sampler_make(dataset_n_samples(t->test), 0, false);
    SamplerPosition position = {0};
    while (position.epoch == 0)
    {
        uint32_t n = sampler_next(&sampler, &position, t->options.batch, t->indices);
        TRY(write_batch(t, t->test, n));
        TRY(executor_run(t->executor, "eval"));
        TRY(add_outputs(t, "loss", &sum[0], &weight[0]));
        for (uint32_t i = 0; i < t->options.n_metrics; i++)
            TRY(add_outputs(t, t->options.metrics[i], &sum[i + 1], &weight[i + 1]));
    }
    *out_eval = (TrainerEval){.n_samples = sampler.n_samples, .loss = mean(sum[0], weight[0])};
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        out_eval->metric[i] = mean(sum[i + 1], weight[i + 1]);
    out_eval->seconds = now_s() - start_s;
    return STATUS_OK;
}

static Status evaluate_and_log(Trainer *t, TrainerEval *out_eval)
{
    TRY(trainer_evaluate(t, out_eval));
    Metric rows[TRAINER_MAX_METRICS + 2] = {METRIC_F64("loss", out_eval->loss)};
    uint32_t n = 1;
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        rows[n++] = METRIC_F64(t->options.metrics[i], out_eval->metric[i]);
    rows[n++] = METRIC_F64("seconds", out_eval->seconds);
    if (t->log)
        TRY(metrics_log_row(t->log, "eval", t->step, rows, n));
    if (t->options.observer.eval)
        t->options.observer.eval(t->options.observer.context, t->step, out_eval);
    return STATUS_OK;
}

/* ---- training */

static Status log_step(Trainer *t, const TrainerStep *s)
{
    uint64_t every = t->options.log_every ? t->options.log_every : 1;
    if (t->options.observer.step)
        t->options.observer.step(t->options.observer.context, s);
    if (!t->log || s->step % every != 0)
        return STATUS_OK;
    Metric rows[TRAINER_MAX_METRICS + 8];
    uint32_t n = 0;
    rows[n++] = METRIC_U64("epoch", s->epoch);
    rows[n++] = METRIC_F64("loss", s->loss);
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        rows[n++] = METRIC_F64(t->options.metrics[i], s->metric[i]);
    rows[n++] = METRIC_F64("lr", s->lr);
    if (!isnan(s->grad_norm))
        rows[n++] = METRIC_F64("grad_norm", s->grad_norm);
    rows[n++] = METRIC_F64("samples_per_s", s->n_samples / s->step_s);
    rows[n++] = METRIC_F64("data_ms", s->data_s * 1e3);
    return metrics_log_row(t->log, "train", s->step, rows, n);
}

static Status train_step(Trainer *t, const Sampler *sampler)
{
    double start_s = now_s();
    TrainerStep s = {.total_steps = t->total_steps, .epoch = t->position.epoch, .grad_norm = NAN};
    SamplerPosition position = t->position;
    s.n_samples = sampler_next(sampler, &position, t->options.batch, t->indices);
    s.lr = lr_at(&t->options.lr, t->step);
    TRY(write_batch(t, t->train, s.n_samples));
    TRY(write_step_scalars(t, s.lr));
    s.data_s = now_s() - start_s;
    Status status = executor_run(t->executor, "train");
    if (status == STATUS_NON_FINITE)
    {
        if (t->log)
            metrics_log_event(t->log, t->step + 1, "non_finite", NULL, 0);
        return status_fail(status, "step %llu: %s; nothing was updated", (unsigned long long)t->step + 1,
                           status_detail());
    }
    TRY(status);
    TRY(executor_read_scalar(t->executor, "loss", &s.loss));
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
    {
        double sum = 0, weight = 0;
        TRY(add_outputs(t, t->options.metrics[i], &sum, &weight));
        s.metric[i] = mean(sum, weight);
    }
    if (has_global(t, "grad_norm"))
        TRY(executor_read_scalar(t->executor, "grad_norm", &s.grad_norm));
    t->position = position;
    s.step = ++t->step;
    s.step_s = now_s() - start_s;
    return log_step(t, &s);
}

static bool is_stopped(const Trainer *t)
{
    return t->options.stop_flag && *t->options.stop_flag;
}

Status trainer_run(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->train);
    *out_eval = (TrainerEval){0};
    Sampler sampler = sampler_make(dataset_n_samples(t->train), t->options.seed, t->options.shuffle);
    uint64_t end = t->total_steps;
    if (t->options.stop_after && t->options.stop_after < end)
        end = t->options.stop_after;
    uint64_t checkpoint_step = t->step, eval_step = UINT64_MAX; /* of the last one made */
    while (t->step < end && !is_stopped(t))
    {
        TRY(train_step(t, &sampler));
        bool epoch_done = t->position.consumed == 0;
        if (t->test && epoch_done && t->options.eval_every && t->position.epoch % t->options.eval_every == 0)
        {
            TRY(evaluate_and_log(t, out_eval));
            eval_step = t->step;
        }
        if (t->options.checkpoint_every && t->step % t->options.checkpoint_every == 0)
        {
            TRY(write_checkpoint(t));
            checkpoint_step = t->step;
        }
    }
    if (checkpoint_step != t->step)
        TRY(write_checkpoint(t));
    if (is_stopped(t))
        return status_fail(STATUS_INTERRUPTED, "stopped by a signal at step %llu%s", (unsigned long long)t->step,
                           t->options.out_dir ? "; the checkpoint is written" : "");
    if (t->test && eval_step != t->step)
        TRY(evaluate_and_log(t, out_eval));
    return STATUS_OK;
}
