/* The training loop of one rank. */
#include "runtime/trainer.h"

#include "base/bug.h"
#include "ir/init.h"
#include "runtime/checkpoint.h"
#include "runtime/fault.h"
#include "runtime/metrics_log.h"
#include "runtime/pretrained.h"
#include "runtime/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* A batch input of the program: "batch.images", or "batch.images.2" for the third micro-batch of this replica. */
typedef struct
{
    const char *global;
    const char *field; /* "images", "mask", "sample" */
    int32_t micro;     /* -1: the name has no number */
    const IrType *type;
    Elem elem;
    void *host; /* one micro-batch */
} BatchInput;

struct Trainer
{
    Arena *arena;
    Executor *executor;
    const IrModule *m;
    const Dataset *train, *test;
    TrainerOptions options;
    VEC(BatchInput) inputs;
    float *mask;           /* of one micro-batch */
    uint64_t *indices;     /* of the whole batch */
    uint32_t rank;         /* in the world */
    bool stopped;          /* a signal came to some rank */
    uint64_t step;         /* done */
    uint64_t n_steps_here; /* begun by this process */
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

/* ---- ranks */

/* All ranks fail when one does; each with its own words, or saying that it was another. */
static Status agree(const Trainer *t, Status status)
{
    double worst = (double)status;
    if (!t->options.rank.world)
        return status;
    TRY(comm_all_reduce_f64(t->options.rank.world, &worst, 1, COMM_MAX));
    if (status == STATUS_OK && worst > 0)
        return status_fail((Status)worst, "another rank failed: %s", status_text((Status)worst));
    return status;
}

/* ---- inputs */

static Elem elem_of(const IrType *type)
{
    Elem elem = ELEM_F32;
    if (!elem_by_name(dtype_name((DType)type->dtype), &elem))
        BUG("no storage for %s", dtype_name((DType)type->dtype));
    return elem;
}

static bool is_field(const BatchInput *input)
{
    return strcmp(input->field, "mask") != 0 && strcmp(input->field, "sample") != 0;
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
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (global->kind != IR_GLOBAL_INPUT || strncmp(global->name, "batch.", 6) != 0 ||
            !executor_has_global(t->executor, global->name))
            continue;
        ENSURE(global->type.rank >= 1 && global->type.dims[0] == t->options.rows);
        const char *field = global->name + 6, *number = strchr(field, '.');
        BatchInput input = {.global = global->name,
                            .field = number ? arena_strndup(t->arena, field, (size_t)(number - field)) : field,
                            .micro = number ? atoi(number + 1) : -1,
                            .type = &global->type,
                            .elem = elem_of(&global->type),
                            .host = arena_alloc(t->arena, (size_t)ir_type_size_bytes(&global->type))};
        if (t->train && is_field(&input))
            TRY(check_field(t->train, &input));
        if (t->test && is_field(&input))
            TRY(check_field(t->test, &input));
        vec_push(t->arena, &t->inputs, input);
    }
    t->mask = ARENA_ARRAY(t->arena, float, t->options.rows);
    t->indices = ARENA_ARRAY(t->arena, uint64_t, t->options.batch + t->options.rows);
    return STATUS_OK;
}

/* Fills the inputs of one micro-batch (micro: -1 for names without a number) with n samples, the first of which is
 * number `first` of the whole batch. */
static Status write_rows(Trainer *t, const Dataset *dataset, const uint64_t *indices, uint32_t n, uint32_t first,
                         int32_t micro)
{
    const uint32_t rows = t->options.rows;
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        if (input->micro != micro)
            continue;
        if (strcmp(input->field, "sample") == 0)
            for (uint32_t k = 0; k < rows; k++)
                ((int32_t *)input->host)[k] = (int32_t)(first + k);
        else if (strcmp(input->field, "mask") == 0)
            for (uint32_t k = 0; k < rows; k++)
                ((float *)input->host)[k] = k < n ? 1.0F : 0.0F;
        else
        {
            BatchSlot slot = {.elem = input->elem, .data = input->host};
            bool found = dataset_field_find(dataset, input->field, &slot.field);
            ENSURE(found);
            TRY(dataset_fill_batch(dataset, indices, n, rows, &slot, 1, t->mask));
        }
        TRY(executor_write_global(t->executor, input->global, input->host));
    }
    return STATUS_OK;
}

/* This rank's part of a batch of n samples. */
static Status write_batch(Trainer *t, uint32_t n)
{
    const TrainerRank *rank = &t->options.rank;
    for (uint32_t i = 0; i < rank->n_micro; i++)
    {
        uint32_t first = (rank->first_micro + i) * t->options.rows;
        uint32_t n_here = first >= n ? 0 : n - first < t->options.rows ? n - first : t->options.rows;
        TRY(write_rows(t, t->train, t->indices + (first < n ? first : 0), n_here, first,
                       rank->n_micro > 1 ? (int32_t)i : -1));
    }
    return STATUS_OK;
}

static Status write_step_scalars(Trainer *t, double lr)
{
    float lr_f32 = (float)lr;
    int32_t step = (int32_t)(t->step + 1);
    int32_t key[2] = {(int32_t)t->options.seed, step};
    if (executor_has_global(t->executor, "lr"))
        TRY(executor_write_global(t->executor, "lr", &lr_f32));
    if (executor_has_global(t->executor, "step"))
        TRY(executor_write_global(t->executor, "step", &step));
    if (executor_has_global(t->executor, "rng.key"))
        TRY(executor_write_global(t->executor, "rng.key", key));
    return STATUS_OK;
}

/* ---- params: from initialisers, a file or a checkpoint */

/* Of that kind, and on this rank. */
static bool is_kind(const Trainer *t, const IrGlobalData *global, IrGlobalKind kind)
{
    return global->kind == kind && executor_has_global(t->executor, global->name);
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
        if (!is_kind(t, global, kind))
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
        note(t, "%s", strbuf_text(&table));
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

static Status load_weights(Trainer *t)
{
    Pretrained *weights;
    TRY(pretrained_open(t->options.weights, &weights));
    Status status = read_weights(t, weights);
    pretrained_close(weights);
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

/* The stage that writes the global to checkpoints; -1: no rank has it. */
static int64_t owner_of(const Trainer *t, const IrGlobalData *global)
{
    if (t->options.rank.n_stages > 1)
        return ir_attrs_int(&global->attrs, IR_ATTR_stage, -1);
    return executor_has_global(t->executor, global->name) ? 0 : -1;
}

static uint32_t count_kind(const Trainer *t, IrGlobalKind kind)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
        n += ir_global(t->m, g)->kind == kind && owner_of(t, ir_global(t->m, g)) >= 0;
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

/* Rank 0 gets every tensor of that kind, its own and those that the owners in the first replica send, in the order of
 * the globals. On the other ranks nothing is kept. */
static Status gather_tensors(Trainer *t, IrGlobalKind kind, NamedTensor *tensors, void **hosts)
{
    Comm *world = t->options.rank.world;
    uint32_t n = 0;
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        const int64_t owner = owner_of(t, global);
        if (global->kind != kind || owner < 0 || (t->rank != 0 && owner != (int64_t)t->rank))
            continue;
        const size_t size_bytes = (size_t)ir_type_size_bytes(&global->type);
        void *host = malloc(size_bytes);
        if (!host)
            base_out_of_memory(size_bytes);
        hosts[n] = host;
        tensors[n++] = tensor_of(global, host);
        if (owner != (int64_t)t->rank)
        {
            TRY(comm_recv(world, (uint32_t)owner, CHECKPOINT_TAG, host, size_bytes));
            continue;
        }
        TRY(executor_read_global(t->executor, global->name, host));
        if (t->rank == 0)
            continue;
        Status status = comm_send(world, 0, CHECKPOINT_TAG, host, size_bytes);
        free(host);
        hosts[--n] = NULL;
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
                             .model_digest = t->options.digest};
    return checkpoint_write(t->options.out_dir, &state, tensors, n_params, tensors + n_params, n_states,
                            t->options.keep_last ? t->options.keep_last : CHECKPOINT_KEEP_DEFAULT);
}

static Status write_checkpoint(Trainer *t)
{
    if (!t->options.out_dir)
        return STATUS_OK;
    uint32_t n_params = count_kind(t, IR_GLOBAL_PARAM), n_states = count_kind(t, IR_GLOBAL_STATE);
    Arena *scratch = arena_create();
    NamedTensor *tensors = ARENA_ARRAY(scratch, NamedTensor, n_params + n_states + 1);
    void **hosts = ARENA_ARRAY(scratch, void *, n_params + n_states + 1);
    if (t->options.rank.world)
        comm_set_place(t->options.rank.world, "checkpoint", (int64_t)t->step, -1);
    Status status = gather_tensors(t, IR_GLOBAL_PARAM, tensors, hosts);
    if (status == STATUS_OK)
        status = gather_tensors(t, IR_GLOBAL_STATE, tensors + n_params, hosts + n_params);
    if (status == STATUS_OK)
        status = agree(t, t->rank == 0 ? save_tensors(t, tensors, n_params, n_states) : STATUS_OK);
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
    if (!t->options.out_dir || !t->train || t->rank != 0)
        return STATUS_OK;
    TRY(make_out_dir(t->options.out_dir));
    const char *path = arena_printf(t->arena, "%s/metrics.jsonl", t->options.out_dir);
    TRY(t->step ? metrics_log_resume(path, t->step, &t->log) : metrics_log_create(path, &t->log));
    const TrainerRank *rank = &t->options.rank;
    const Metric plan[] = {METRIC_U64("stages", rank->n_stages), METRIC_U64("replicas", rank->n_replicas),
                           METRIC_U64("micro_batches", rank->n_all_micro)};
    return rank->world ? metrics_log_event(t->log, t->step, "plan", plan, 3) : STATUS_OK;
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

static void fill_in_defaults(TrainerOptions *options)
{
    TrainerRank *rank = &options->rank;
    rank->n_stages = rank->n_stages ? rank->n_stages : 1;
    rank->n_replicas = rank->n_replicas ? rank->n_replicas : 1;
    rank->n_micro = rank->n_micro ? rank->n_micro : 1;
    options->rows = options->rows ? options->rows : options->batch;
}

Status trainer_create(Executor *executor, const IrModule *m, const Dataset *train, const Dataset *test,
                      const TrainerOptions *options, Trainer **out_trainer)
{
    ENSURE(options->n_metrics <= TRAINER_MAX_METRICS);
    Arena *arena = arena_create();
    Trainer *t = ARENA_NEW(arena, Trainer);
    *t = (Trainer){.arena = arena, .executor = executor, .m = m, .train = train, .test = test, .options = *options};
    fill_in_defaults(&t->options);
    t->rank = t->options.rank.world ? comm_rank(t->options.rank.world) : 0;
    Status status = agree(t, set_up(t));
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

/* Adds the outputs NAME.sum and NAME.weight of the last run to a pair of numbers, on the rank that has them. */
static Status add_outputs(Trainer *t, const char *name, double *pair)
{
    static const char *const ends[] = {"sum", "weight"};
    for (int i = 0; i < 2; i++)
    {
        char global[256];
        double value;
        snprintf(global, sizeof global, "%s.%s", name, ends[i]);
        if (!executor_has_global(t->executor, global))
            continue;
        TRY(executor_read_scalar(t->executor, global, &value));
        pair[i] += value;
    }
    return STATUS_OK;
}

static double mean(double sum, double weight)
{
    return weight > 0 ? sum / weight : 0;
}

Status trainer_evaluate(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->test);
    const TrainerRank *rank = &t->options.rank;
    double start_s = now_s();
    double sums[2 * (TRAINER_MAX_METRICS + 1)] = {0};
    const uint32_t n_pairs = t->options.n_metrics + 1;
    Sampler sampler = sampler_make(dataset_n_samples(t->test), 0, false);
    SamplerPosition position = {0};
    for (uint64_t chunk = 0; position.epoch == 0; chunk++)
    {
        uint32_t n = sampler_next(&sampler, &position, t->options.rows, t->indices);
        if (chunk % rank->n_replicas != rank->replica)
            continue;
        TRY(write_rows(t, t->test, t->indices, n, 0, -1));
        TRY(executor_run(t->executor, "eval"));
        TRY(add_outputs(t, "loss", sums));
        for (uint32_t i = 0; i < t->options.n_metrics; i++)
            TRY(add_outputs(t, t->options.metrics[i], sums + 2 * (i + 1)));
    }
    if (rank->world)
        TRY(comm_all_reduce_f64(rank->world, sums, 2 * n_pairs, COMM_SUM));
    *out_eval = (TrainerEval){.n_samples = sampler.n_samples, .loss = mean(sums[0], sums[1])};
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        out_eval->metric[i] = mean(sums[2 * i + 2], sums[2 * i + 3]);
    out_eval->seconds = now_s() - start_s;
    return STATUS_OK;
}

static Status evaluate_and_log(Trainer *t, TrainerEval *out_eval)
{
    executor_trace_stop(t->executor);
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
    Metric rows[TRAINER_MAX_METRICS + 9];
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
    if (t->options.rank.world)
        rows[n++] = METRIC_F64("bubble", s->bubble);
    return metrics_log_row(t->log, "train", s->step, rows, n);
}

static bool is_signalled(const Trainer *t)
{
    return t->options.stop_flag && *t->options.stop_flag;
}

/* What the last stage of the first replica knows of the step, for all ranks; and whether one of them is to stop. */
static Status read_outputs(Trainer *t, TrainerStep *s)
{
    enum
    {
        LOSS,
        GRAD_NORM,
        STOP,
        BUSY,
        METRICS
    };
    const TrainerRank *rank = &t->options.rank;
    double shared[METRICS + 2 * TRAINER_MAX_METRICS] = {0};
    const bool has_norm = ir_global_find(t->m, "grad_norm") != 0;
    if (rank->replica == 0 && rank->stage + 1 == rank->n_stages)
    {
        TRY(executor_read_scalar(t->executor, "loss", &shared[LOSS]));
        if (has_norm)
            TRY(executor_read_scalar(t->executor, "grad_norm", &shared[GRAD_NORM]));
        for (uint32_t i = 0; i < t->options.n_metrics; i++)
            TRY(add_outputs(t, t->options.metrics[i], &shared[METRICS + 2 * i]));
    }
    shared[STOP] = is_signalled(t);
    const ExecutorTimes times = executor_times(t->executor);
    double longest_s = times.pipe_s, n_ranks = 1;
    shared[BUSY] = times.pipe_s - times.pipe_wait_s;
    if (rank->world)
    {
        n_ranks = comm_size(rank->world);
        TRY(comm_all_reduce_f64(rank->world, shared, METRICS + 2 * t->options.n_metrics, COMM_SUM));
        TRY(comm_all_reduce_f64(rank->world, &longest_s, 1, COMM_MAX));
    }
    s->bubble = longest_s > 0 ? 1 - shared[BUSY] / (n_ranks * longest_s) : 0;
    s->loss = shared[LOSS];
    s->grad_norm = has_norm ? shared[GRAD_NORM] : NAN;
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        s->metric[i] = mean(shared[METRICS + 2 * i], shared[METRICS + 2 * i + 1]);
    t->stopped = t->stopped || shared[STOP] > 0;
    return STATUS_OK;
}

static Status train_step(Trainer *t, const Sampler *sampler)
{
    double start_s = now_s();
    TrainerStep s = {.total_steps = t->total_steps, .epoch = t->position.epoch, .grad_norm = NAN};
    SamplerPosition position = t->position;
    s.n_samples = sampler_next(sampler, &position, t->options.batch, t->indices);
    s.lr = lr_at(&t->options.lr, t->step);
    TRY(fault_at_step(t->rank, t->step + 1));
    TRY(write_batch(t, s.n_samples));
    TRY(write_step_scalars(t, s.lr));
    s.data_s = now_s() - start_s;
    executor_set_step(t->executor, t->step + 1);
    if (t->options.trace_steps && t->n_steps_here == TRAINER_TRACE_AFTER)
        executor_trace_start(t->executor, TRAINER_TRACE_EVENTS);
    if (t->options.trace_steps && t->n_steps_here == TRAINER_TRACE_AFTER + t->options.trace_steps)
        executor_trace_stop(t->executor);
    t->n_steps_here++;
    Status status = executor_run(t->executor, "train");
    if (status == STATUS_NON_FINITE)
    {
        if (t->log)
            metrics_log_event(t->log, t->step + 1, "non_finite", NULL, 0);
        return status_fail(status, "step %llu: %s; nothing was updated", (unsigned long long)t->step + 1,
                           status_detail());
    }
    TRY(status);
    TRY(read_outputs(t, &s));
    t->position = position;
    s.step = ++t->step;
    s.step_s = now_s() - start_s;
    return log_step(t, &s);
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
    t->stopped = !t->options.rank.world && is_signalled(t);
    while (t->step < end && !t->stopped)
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
    if (t->stopped)
        return status_fail(STATUS_INTERRUPTED, "stopped by a signal at step %llu%s", (unsigned long long)t->step,
                           t->options.out_dir ? "; the checkpoint is written" : "");
    if (t->test && eval_step != t->step)
        TRY(evaluate_and_log(t, out_eval));
    return STATUS_OK;
}
