/* From a model file to an executor: the one road, with the times of its parts. */
#include "driver/session.h"

#include "base/bug.h"
#include "runtime/pool.h"
#include "runtime/trace.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum
{
    TRACED_STEPS = 3
};

/* ---- loading */

void session_print_diag(Session *s, Status *status)
{
    driver_print_diag(s->diag);
    if (diag_error_count(s->diag) > 0)
    {
        status_clear();
        *status = STATUS_BAD_INPUT;
    }
}

/* The library of blocks beside the program: PREFIX/bin/ptc and PREFIX/share/ptc/lib, in the build tree too. NULL
 * when it is not there or $PTC_LIB names another. */
static const char *lib_beside_program(Arena *arena)
{
    char program[PATH_MAX], lib[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (getenv("PTC_LIB") || n <= 0)
        return NULL;
    program[n] = 0;
    const char *path = arena_printf(arena, "%s/../share/ptc/lib", dirname(program));
    return realpath(path, lib) ? arena_strdup(arena, lib) : NULL;
}

/* The config.json of the run that is gone on from, evaluated or exported; NULL: none. */
static const char *config_of_run(const Session *s)
{
    if (!s->options->out_dir || !s->options->resume)
        return NULL;
    const char *path = arena_printf(s->arena, "%s/config.json", s->options->out_dir);
    return access(path, R_OK) == 0 ? path : NULL;
}

static void find_results(Session *s)
{
    MetricSpec *metrics = ARENA_ARRAY(s->arena, MetricSpec, s->job->n_metrics + 1);
    for (uint32_t i = 0; i < s->job->n_metrics; i++)
    {
        const JobMetric *metric = &s->job->metrics[i];
        metrics[i] = (MetricSpec){.name = metric->name,
                                  .kind = metric->kind,
                                  .search = {(uint32_t)metric->n_best, (uint32_t)metric->max_answer}};
    }
    s->metrics = metrics;
    s->n_results = metric_n_results(metrics, s->job->n_metrics);
    s->results = metric_result_names(s->arena, metrics, s->job->n_metrics);
}

static bool lacks_bf16(const Session *s, const Job *job)
{
    return strcmp(job->train.precision, "bf16") == 0 && strcmp(s->options->device, "cpu") == 0 && !gemm_has_bf16();
}

Status session_load_length(const Session *s, int64_t micro_batches, int64_t length, Diag *diag, Job **out_job)
{
    FrontendOptions frontend = {.overrides = s->options->sets,
                                .n_overrides = s->options->n_sets,
                                .micro_batches = micro_batches,
                                .weights = s->options->weights,
                                .init = s->options->init,
                                .config = config_of_run(s),
                                .length = length,
                                .synthetic = (int64_t)s->options->n_synthetic,
                                .may_lack_weights = s->options->may_lack_weights,
                                .with_outputs = s->options->with_outputs,
                                .lib_dir = lib_beside_program(s->arena)};
    TRY(frontend_load(s->arena, diag, s->options->operand, &frontend, out_job));
    IrModule *m = (*out_job)->module;
    if (lacks_bf16(s, *out_job))
        ir_attrs_remove(&ir_func(m, ir_func_find(m, "train"))->attrs, IR_ATTR_precision);
    elastic_mark(s, *out_job);
    return STATUS_OK;
}

Status session_load_job(Session *s, int64_t micro_batches)
{
    s->diag = diag_create(s->arena);
    Status status = session_load_length(s, micro_batches, 0, s->diag, &s->job);
    session_print_diag(s, &status);
    if (status == STATUS_OK)
        find_results(s);
    return status;
}

/* Only a metric of kind span has them. */
static Status check_predictions(const Session *s)
{
    for (uint32_t i = 0; i < s->job->n_metrics; i++)
        if (s->job->metrics[i].kind == IR_METRIC_span)
            return STATUS_OK;
    return s->options->predictions
               ? status_fail(STATUS_USAGE, "--predictions wants a model with a <metric kind=\"span\">")
               : STATUS_OK;
}

Status session_load(Arena *arena, const Options *options, Session *out_session)
{
    Session *s = out_session;
    *s = (Session){.arena = arena, .options = options, .ranks = {.size = 1}};
    double start_s = driver_now_s();
    TRY(session_load_job(s, 0));
    TRY(check_predictions(s));
    const IrModule *m = s->job->module;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        if (global->kind != IR_GLOBAL_PARAM)
            continue;
        s->n_params += (uint64_t)ir_type_n_elems(&global->type);
        if (!ir_attrs_bool(&global->attrs, IR_ATTR_trainable))
            s->n_frozen += (uint64_t)ir_type_n_elems(&global->type);
    }
    s->load_s = driver_now_s() - start_s;
    if (lacks_bf16(s, s->job) && !driver_is_quiet_rank())
        fprintf(stderr, "ptc: this processor has no AVX512-BF16: precision f32 instead of bf16\n");
    TRY(ranks_join(s));
    TRY(elastic_prepare(s));
    elastic_mark(s, s->job);
    return ranks_plan(s);
}

/* ---- compiling */

static bool is_interp(const Session *s)
{
    return strcmp(s->options->device, "interp") == 0;
}

Status session_compile_longest(Session *s)
{
    double start_s = driver_now_s();
    if (s->module_arena) /* of another stage (cmd_plan) */
        arena_destroy(s->module_arena);
    s->module_arena = arena_create();
    s->m = ir_module_clone(s->module_arena, s->job->module);
    Status status =
        pass_manager_run(&s->module_arena, &s->m, s->diag, pass_pipeline_default, &s->options->pass_options);
    if (diag_error_count(s->diag) > 0)
        session_print_diag(s, &status);
    s->passes_s = driver_now_s() - start_s;
    return status;
}

Status session_compile(Session *s)
{
    double start_s = driver_now_s();
    TRY(session_compile_longest(s));
    TRY(variants_compile(s));
    s->passes_s = driver_now_s() - start_s;
    return STATUS_OK;
}

static int64_t status_field_bytes(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = atoll(line + strlen(key));
    if (file)
        fclose(file);
    return kib * 1024;
}

Status session_build_kernels(Session *s, uint32_t n_compilers)
{
    const uint32_t n = s->variants.n_shorter + 1;
    const IrModule **programs = ARENA_ARRAY(s->arena, const IrModule *, n);
    HalKernelFile *files = ARENA_ARRAY(s->arena, HalKernelFile, n);
    for (uint32_t i = 0; i < n; i++)
        programs[i] = variants_module(s, i);
    TRY(hal_kernels_build(s->arena, s->options->device, programs, n, n_compilers, files));
    s->kernels = files;
    s->kernels_cached = true;
    for (uint32_t i = 0; i < n; i++)
        s->kernels_cached = s->kernels_cached && files[i].cached;
    return STATUS_OK;
}

/* They may have gone since. */
static bool kernels_are_there(const Session *s)
{
    for (uint32_t i = 0; s->kernels && i <= s->variants.n_shorter; i++)
        if (access(s->kernels[i].path, R_OK) != 0)
            return false;
    return s->kernels != NULL;
}

/* The plan was made from an estimate; this is what the program takes. */
static Status check_cap(const Session *s)
{
    const int64_t cap = s->ranks.request.cap_bytes, planned = session_predicted_bytes(s);
    if (cap <= 0 || planned <= cap)
        return STATUS_OK;
    return status_fail(
        STATUS_OUT_OF_MEMORY,
        "rank %u needs %.1f MiB, <cluster memory=> allows %.1f MiB: more stages or micro-batches need less",
        s->ranks.rank, (double)planned / (1 << 20), (double)cap / (1 << 20));
}

HalOptions session_hal_options(const Session *s)
{
    const Comm *world = s->ranks.comm.world;
    return (HalOptions){.n_threads = ranks_threads(s),
                        .nth_process = world ? (int)comm_local_rank(world) : 0,
                        .has_peers = world != NULL,
                        .same_bits = s->ranks.request.deterministic,
                        .pin = s->options->pin,
                        .no_graphs = s->options->no_graphs};
}

Status session_make_device(Session *s)
{
    if (s->device)
        return STATUS_OK;
    const HalOptions hal = session_hal_options(s);
    const Status status = hal_device_create(s->options->device, &hal, &s->device);
    if (status == STATUS_BAD_INPUT)
        return status_fail(STATUS_USAGE, "%s", arena_printf(s->arena, "--device: %s interp", status_detail()));
    TRY(status);
    return s->ranks.comm.world
               ? device_comm_create(s->device, s->ranks.comm.world, s->ranks.device_way, &s->ranks.comm.device)
               : STATUS_OK;
}

Status session_build(Session *s)
{
    double start_s = driver_now_s();
    if (!s->held_before_bytes)
    {
        malloc_trim(0); /* what measuring has left behind would be taken again, and be missing in the peak */
        s->held_before_bytes = status_field_bytes("VmRSS:") - status_field_bytes("RssFile:");
    }
    Status status;
    if (is_interp(s) && s->ranks.size > 1)
        return status_fail(STATUS_UNSUPPORTED, "the reference interpreter runs on one rank only");
    ExecutorModule *modules = variants_modules(s);
    const uint32_t n_modules = s->variants.n_shorter + 1;
    if (is_interp(s))
        status = executor_create_interp(modules, n_modules, s->tensors, &s->executor);
    else
    {
        TRY(session_make_device(s));
        if (!kernels_are_there(s))
            TRY(session_build_kernels(s, (uint32_t)pool_n_cores()));
        for (uint32_t i = 0; i < n_modules; i++)
            modules[i].kernels_path = s->kernels[i].path;
        status = executor_create(s->device, modules, n_modules, s->ranks.comm.world ? &s->ranks.comm : NULL, s->tensors,
                                 &s->executor);
    }
    s->kernels_s = driver_now_s() - start_s;
    return status == STATUS_OK ? check_cap(s) : status;
}

Status session_unbuild(Session *s)
{
    Status status = STATUS_OK;
    if (s->executor && s->tensors)
        status = executor_release(s->executor, s->tensors);
    else
        executor_destroy(s->executor);
    s->executor = NULL;
    if (s->device)
        hal_gemms_drop(s->device);
    variants_close(s);
    if (s->module_arena)
        arena_destroy(s->module_arena);
    s->module_arena = NULL;
    s->m = NULL;
    s->kernels = NULL;
    if (s->ahead_arena)
        arena_destroy(s->ahead_arena);
    s->ahead_arena = NULL;
    return status;
}

Status session_close(Session *s, Status status)
{
    prebuild_destroy(s->prebuild);
    elastic_close(s);
    ranks_leave(s, status != STATUS_OK);
    executor_tensors_destroy(s->tensors);
    s->tensors = NULL;
    session_unbuild(s); /* nothing is kept: it cannot fail */
    hal_device_destroy(s->device);
    s->device = NULL;
    dataset_close(s->labels);
    dataset_close(s->train);
    dataset_close(s->test);
    return status;
}

/* ---- training */

/* Names the params and what is trained on: a checkpoint of another model, batch or order does not fit. */
static const char *digest_of(const Session *s)
{
    StrBuf text = strbuf_make(s->arena);
    const IrModule *m = s->job->module;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_PARAM)
            strbuf_addf(&text, "%s %s\n", ir_global(m, g)->name, ir_type_text(s->arena, &ir_global(m, g)->type));
    strbuf_addf(&text, "%s %lld", s->job->train.optimizer, (long long)s->job->train.batch);
    if (s->job->data.group_by_length)
        strbuf_addf(&text, " groups of %lld", (long long)s->job->data.group_by_length);
    return arena_printf(s->arena, "%016llx", (unsigned long long)XXH3_64bits(strbuf_text(&text), text.len));
}

/* Without several lengths all texts count: their order may depend on it. */
static TrainerBuckets buckets_of(const Session *s)
{
    const DataSpec *data = &s->job->data;
    TrainerBuckets buckets = {.lengths = data->buckets,
                              .n_lengths = data->n_buckets,
                              .fields = s->variants.fields,
                              .n_fields = s->variants.n_fields,
                              .group = (uint32_t)data->group_by_length};
    if (buckets.n_fields)
        return buckets;
    const char **fields = ARENA_ARRAY(s->arena, const char *, data->n_fields);
    for (uint32_t i = 0; i < data->n_fields; i++)
        if (data->fields[i].format == DATA_TEXT ||
            (data->fields[i].format == DATA_SQUAD && data->fields[i].sample_type.rank == 1))
            fields[buckets.n_fields++] = data->fields[i].name;
    buckets.fields = fields;
    return buckets;
}

static LrSchedule schedule_of(const TrainSpec *train)
{
    static const LrKind kinds[] = {
        [SCHEDULE_CONSTANT] = LR_CONSTANT, [SCHEDULE_LINEAR] = LR_LINEAR, [SCHEDULE_COSINE] = LR_COSINE};
    return (LrSchedule){.kind = kinds[train->schedule],
                        .base_lr = train->lr,
                        .warmup_steps = (uint64_t)train->warmup_steps,
                        .end_factor = train->lr > 0 ? train->min_lr / train->lr : 0};
}

static uint32_t loader_threads(const Session *s)
{
    const bool costly = (s->train && dataset_is_costly(s->train)) || (s->test && dataset_is_costly(s->test));
    if (s->options->n_loader_threads)
        return s->options->n_loader_threads;
    return costly ? (uint32_t)ranks_threads(s) : 1;
}

Status session_trainer(Session *s, const TrainerObserver *observer, bool with_out_dir,
                       const volatile sig_atomic_t *stop_flag, const TrainerPosition *from, Trainer **out_trainer)
{
    const TrainSpec *train = &s->job->train;
    TrainerOptions options = {.rank = ranks_for_trainer(s),
                              .buckets = buckets_of(s),
                              .epochs = (uint64_t)train->epochs,
                              .max_steps = (uint64_t)train->max_steps,
                              .stop_after = s->options->stop_after,
                              .batch = (uint32_t)train->batch,
                              .rows = (uint32_t)train->rows,
                              .seed = (uint64_t)train->seed,
                              .shuffle = s->job->data.shuffle,
                              .loader_threads = loader_threads(s),
                              .lr = schedule_of(train),
                              .eval_every = (uint64_t)train->eval_every,
                              .checkpoint_every = (uint64_t)train->checkpoint_every,
                              .log_every = (uint64_t)train->log_every,
                              .metrics = s->metrics,
                              .n_metrics = s->job->n_metrics,
                              .predictions = s->options->predictions,
                              .out_dir = with_out_dir ? s->options->out_dir : NULL,
                              .resume = s->options->resume,
                              .from = from,
                              .trace_steps = s->options->trace ? TRACED_STEPS : 0,
                              .weights = train->weights,
                              .weights_partial = train->weights_partial,
                              .digest = digest_of(s),
                              .stop_flag = stop_flag};
    if (observer)
        options.observer = *observer;
    elastic_set_options(s, &options);
    TRY(trainer_create(s->executor, s->m, s->train, s->test, &options, out_trainer));
    Status status = elastic_open_cache(s, *out_trainer);
    if (status == STATUS_OK)
        return STATUS_OK;
    trainer_destroy(*out_trainer);
    *out_trainer = NULL;
    return status;
}

Status session_write_trace(Session *s)
{
    if (!s->options->trace)
        return STATUS_OK;
    const bool idle = s->ranks.planned && s->ranks.stage == s->ranks.choice.chosen->plan.n_stages;
    const char *place =
        idle ? "idle" : arena_printf(s->arena, "stage %u of replica %u", s->ranks.stage, s->ranks.replica);
    return trace_write(s->options->trace, s->executor, s->ranks.comm.world, place);
}

/* ---- memory */

int64_t session_predicted_bytes(const Session *s)
{
    ExecutorMemory memory = executor_memory(s->executor);
    return memory.param_bytes + memory.state_bytes + memory.input_bytes + memory.output_bytes + memory.arena_bytes +
           memory.workspace_bytes + memory.comm_bytes;
}

void session_reset_peak(const Session *s)
{
    if (s->device)
        hal_memory_reset_peak(s->device);
    malloc_trim(0); /* what compiling has left behind */
    int file = open("/proc/self/clear_refs", O_WRONLY);
    if (file >= 0)
    {
        if (write(file, "5", 1) != 1)
            fprintf(stderr, "ptc: warning: cannot reset the peak memory counter; the real peak includes compiling\n");
        close(file);
    }
}

int64_t session_real_bytes(const Session *s)
{
    if (s->device && !hal_device_uses_host_memory(s->device))
    {
        const HalMemoryInfo info = hal_memory_info(s->device);
        return info.peak_buffer_bytes + info.workspace_bytes;
    }
    return status_field_bytes("VmHWM:") - status_field_bytes("RssFile:") - s->held_before_bytes;
}

Status session_gather_memory(Session *s, int64_t real_bytes, SessionMemory *out)
{
    Comm *world = s->ranks.comm.world;
    const double mine[2] = {(double)session_predicted_bytes(s), real_bytes > 0 ? (double)real_bytes : NAN};
    const uint32_t n = world ? comm_size(world) : 1;
    double *all = ARENA_ARRAY(s->arena, double, 2 * n), *planned = ARENA_ARRAY(s->arena, double, n),
           *real = ARENA_ARRAY(s->arena, double, n);
    memcpy(all, mine, sizeof mine);
    if (world)
        TRY(comm_all_gather(world, mine, sizeof mine, all));
    for (uint32_t r = 0; r < n; r++)
    {
        planned[r] = all[2 * r];
        real[r] = all[2 * r + 1];
    }
    *out = (SessionMemory){.n_ranks = n, .planned = planned, .real = real};
    return STATUS_OK;
}

void session_print_profile(Session *s)
{
    uint32_t n_rows;
    const ExecutorProfileRow *rows = executor_profile_rows(s->executor, &n_rows);
    double total = 0;
    for (uint32_t i = 0; i < n_rows; i++)
        total += rows[i].seconds;
    printf("%8s %6s %9s %10s %8s %8s  %s\n", "seconds", "%", "runs", "us/run", "MB/run", "GB/s", "what");
    for (uint32_t i = 0; i < n_rows && rows[i].n_runs; i++)
        printf("%8.3f %6.2f %9llu %10.1f %8.2f %8.1f  %s\n", rows[i].seconds, 100 * rows[i].seconds / total,
               (unsigned long long)rows[i].n_runs, 1e6 * rows[i].seconds / (double)rows[i].n_runs,
               1e-6 * rows[i].bytes / (double)rows[i].n_runs,
               rows[i].seconds > 0 ? 1e-9 * rows[i].bytes / rows[i].seconds : 0, rows[i].name);
}
