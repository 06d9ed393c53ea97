/* One program for each length of texts. */
#include "driver/variants.h"

#include "base/bug.h"
#include "driver/session.h"

#include <string.h>

/* ---- what may differ */

static const char *type_text(const Session *s, const IrModule *m, IrGlobal g)
{
    return ir_type_text(s->arena, &ir_global(m, g)->type);
}

/* Is it the input [b length] of the longest program with another length? */
static bool is_shorter(const IrType *longest, const IrType *other, int64_t length)
{
    return longest->rank == 2 && other->rank == 2 && longest->dtype == other->dtype &&
           longest->dims[0] == other->dims[0] && other->dims[1] == length;
}

static const DataField *field_of(const Session *s, const char *global)
{
    const DataSpec *data = &s->job->data;
    for (uint32_t i = 0; i < data->n_fields; i++)
        if (strncmp(global, "batch.", 6) == 0 && strcmp(data->fields[i].name, global + 6) == 0)
            return &data->fields[i];
    return NULL;
}

static void add_field(Session *s, const char *name)
{
    Variants *v = &s->variants;
    for (uint32_t i = 0; i < v->n_fields; i++)
        if (strcmp(v->fields[i], name) == 0)
            return;
    if (!v->fields)
        v->fields = ARENA_ARRAY(s->arena, const char *, s->job->data.n_fields);
    v->fields[v->n_fields++] = name;
}

static void check_global(Session *s, const Variant *v, IrGlobal g)
{
    const IrModule *m = s->job->module;
    const IrGlobalData *global = ir_global(m, g);
    const IrGlobal other = ir_global_find(v->job->module, global->name);
    const DataSpec *data = &s->job->data;
    const char *at = arena_printf(s->arena, "%s = %lld", data->bucket_dim, (long long)v->length);
    if (!other)
        diag_error(s->diag, data->span, "'%s' is not there with %s", global->name, at);
    if (!other || ir_type_equal(&global->type, &ir_global(v->job->module, other)->type))
        return;
    if (global->kind == IR_GLOBAL_OUTPUT && ir_metric_is_rows(global->name))
        return; /* scores of as many tokens */
    const DataField *field = field_of(s, global->name);
    const char *types =
        arena_printf(s->arena, "%s, but %s with %s", type_text(s, m, g), type_text(s, v->job->module, other), at);
    if (!field)
        diag_error(s->diag, data->span, "'%s' is %s: only the length of texts may depend on it", global->name, types);
    else if (!is_shorter(&global->type, &ir_global(v->job->module, other)->type, v->length))
        diag_error(s->diag, field->span, "input '%s' is %s: expected 'b %s'", field->name, types, data->bucket_dim);
    else if (field->format != DATA_TEXT && field->format != DATA_SQUAD)
        diag_error(s->diag, field->span, "field '%s' cannot have several lengths: only texts are padded", field->name);
    else
        add_field(s, field->name);
}

static void check_variant(Session *s, const Variant *v)
{
    const IrModule *m = s->job->module, *other = v->job->module;
    const DataSpec *data = &s->job->data;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        check_global(s, v, g);
    for (IrGlobal g = 1; g < other->globals.len; g++)
        if (!ir_global_find(m, ir_global(other, g)->name))
            diag_error(s->diag, data->span, "'%s' is there with %s = %lld only", ir_global(other, g)->name,
                       data->bucket_dim, (long long)v->length);
    if (!s->variants.n_fields && diag_error_count(s->diag) == 0)
        diag_error(s->diag, data->span, "no <input> has the shape 'b %s'", data->bucket_dim);
}

/* ---- compiling */

static Status tell(Diag *diag, Status status)
{
    driver_print_diag(diag);
    if (diag_error_count(diag) == 0)
        return status;
    status_clear();
    return STATUS_BAD_INPUT;
}

static Status compile_variant(Session *s, Variant *v)
{
    v->diag = diag_create(s->arena);
    Status status = session_load_length(s, s->job->train.micro_batches, v->length, v->diag, &v->job);
    if (status != STATUS_OK && diag_error_count(v->diag) > 0)
        diag_note(v->diag, s->job->data.span, "in the program for %s = %lld", s->job->data.bucket_dim,
                  (long long)v->length);
    TRY(tell(v->diag, status));
    check_variant(s, v);
    TRY(tell(s->diag, STATUS_OK));
    ranks_apply_plan(s, v->job->module);
    v->module_arena = arena_create();
    v->m = ir_module_clone(v->module_arena, v->job->module);
    PassOptions passes = {.verify_each = s->options->pass_options.verify_each,
                          .roundtrip_each = s->options->pass_options.roundtrip_each,
                          .reproducer_dir = s->options->pass_options.reproducer_dir};
    status = pass_manager_run(&v->module_arena, &v->m, v->diag, pass_pipeline_default, &passes);
    return tell(v->diag, status);
}

Status variants_compile(Session *s)
{
    const DataSpec *data = &s->job->data;
    Variants *variants = &s->variants;
    const uint32_t n = data->n_buckets ? data->n_buckets - 1 : 0;
    variants->shorter = ARENA_ARRAY(s->arena, Variant, n);
    for (; variants->n_shorter < n; variants->n_shorter++)
    {
        Variant *v = &variants->shorter[variants->n_shorter];
        v->length = data->buckets[variants->n_shorter];
        Status status = compile_variant(s, v);
        if (status != STATUS_OK && v->module_arena)
            arena_destroy(v->module_arena);
        TRY(status);
    }
    return STATUS_OK;
}

const IrModule *variants_module(const Session *s, uint32_t i)
{
    return i < s->variants.n_shorter ? s->variants.shorter[i].m : s->m;
}

ExecutorModule *variants_modules(Session *s)
{
    const Variants *variants = &s->variants;
    const DataSpec *data = &s->job->data;
    ExecutorModule *modules = ARENA_ARRAY(s->arena, ExecutorModule, variants->n_shorter + 1);
    for (uint32_t i = 0; i <= variants->n_shorter; i++)
    {
        modules[i].m = variants_module(s, i);
        if (variants->n_shorter)
            modules[i].label = arena_printf(s->arena, "%s=%lld", data->bucket_dim, (long long)data->buckets[i]);
    }
    return modules;
}

void variants_close(Session *s)
{
    for (uint32_t i = 0; i < s->variants.n_shorter; i++)
        arena_destroy(s->variants.shorter[i].module_arena);
    s->variants = (Variants){0};
}
