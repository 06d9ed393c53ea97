/* The road from a file to a job: read, parse, check, include, override, expand. */
#include "frontend/frontend.h"

#include "frontend/expand.h"
#include "frontend/hf.h"
#include "frontend/include.h"
#include "frontend/schema.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t DEFAULT_MAX_BYTES = 16u << 20;
static const uint64_t DEFAULT_MAX_OPS = 1000000;

static const char *find_lib_dir(const FrontendOptions *options)
{
    const char *env = getenv("PTC_LIB");
    if (options->lib_dir)
        return options->lib_dir;
    if (env && *env)
        return env;
#ifdef PTC_LIB_DIR
    return PTC_LIB_DIR;
#else
    return NULL;
#endif
}

static void expand_graph(Expander *x, const XmlElem *root, const FrontendOptions *options)
{
    for (const XmlElem *e = root->first; e && !x->gave_up; e = e->next)
        if (e->id == EL_define)
            expand_define(x, e);
    x->b.unit = 1;
    uint32_t errors = diag_error_count(x->diag);
    hf_open(x, root, options);
    job_dims(x, root);
    bool known_dims = diag_error_count(x->diag) == errors;
    job_cluster(x, root);
    job_train(x, root, options->micro_batches);
    job_data(x, root, options->length);
    if (!known_dims || x->gave_up)
        return; /* what uses them would only repeat it */
    outputs_prepare(x);
    for (const XmlElem *e = root->first; e; e = e->next)
        if (e->id != EL_dim && e->id != EL_define) /* those are read already */
            expand_element(x, e);
    job_groups(x, root);
    job_freeze(x, root);
    job_cache(x, root);
    job_check(x, root);
    if (options->synthetic)
        job_synthetic(x, options->synthetic);
    hf_check(x);
    if (!x->loss && !x->gave_up)
        expand_error(x, xml_elem_span(root), NULL, "the model has no <loss>");
}

static Status load(Arena *arena, Diag *diag, const Source *source, const FrontendOptions *options, Job **out_job)
{
    uint64_t max_bytes = options->max_bytes ? options->max_bytes : DEFAULT_MAX_BYTES;
    uint32_t errors = diag_error_count(diag);
    XmlElem *root = source ? xml_parse(arena, diag, source) : NULL;
    if (!root || !elements_check(arena, diag, root, EL_model) || !schema_check(arena, diag, source) ||
        !include_all(arena, diag, root, find_lib_dir(options), max_bytes))
        return STATUS_BAD_INPUT;
    job_override(arena, diag, root, options);
    if (options->length)
        job_override_length(arena, root, options->length);
    if (diag_error_count(diag) != errors)
        return STATUS_BAD_INPUT;

    Expander *x = ARENA_NEW(arena, Expander);
    Job *job = ARENA_NEW(arena, Job);
    job->path = source->path;
    job->module = ir_module_create(arena, xml_attr(root, "name")->value);
    x->arena = arena;
    x->diag = diag;
    x->job = job;
    x->m = job->module;
    x->b = ir_builder(x->m, ir_func_add(x->m, IR_FUNC_STEP, "train"));
    x->root = x->frame = frame_open(x, NULL, false, "", "");
    x->with_outputs = options->with_outputs;
    x->max_ops = options->max_ops ? options->max_ops : DEFAULT_MAX_OPS;
    x->max_steps = x->max_ops;
    expand_graph(x, root, options);
    hf_close(x);
    if (diag_error_count(diag) != errors)
        return STATUS_BAD_INPUT;
    for (uint32_t file = 1; file <= diag_file_count(diag); file++)
        vec_push(arena, &x->m->files, arena_strdup(arena, diag_file_path(diag, file)));
    job->metrics = x->metrics.data;
    job->n_metrics = x->metrics.len;
    job->n_units = x->n_units ? x->n_units : 1;
    *out_job = job;
    return STATUS_OK;
}

Status frontend_load(Arena *arena, Diag *diag, const char *path, const FrontendOptions *options, Job **out_job)
{
    uint64_t max_bytes = options->max_bytes ? options->max_bytes : DEFAULT_MAX_BYTES;
    return load(arena, diag, source_read(arena, diag, (Span){0}, path, max_bytes), options, out_job);
}

Status frontend_load_text(Arena *arena, Diag *diag, const char *path, const char *text, size_t n_bytes,
                          const FrontendOptions *options, Job **out_job)
{
    if (n_bytes > (options->max_bytes ? options->max_bytes : DEFAULT_MAX_BYTES))
    {
        diag_error(diag, (Span){0}, "'%s' has %zu bytes, more than a model may have", path, n_bytes);
        return STATUS_BAD_INPUT;
    }
    return load(arena, diag, source_from_text(arena, diag, path, text, n_bytes), options, out_job);
}
