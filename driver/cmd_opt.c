/* ptc opt: IR text in, passes, IR text out. ptc ops, ptc schema: the tables. */
#include "base/strbuf.h"
#include "driver/driver.h"
#include "frontend/frontend.h"
#include "ir/text.h"
#include "ir/verify.h"

static Status run_passes(const Options *options, Diag *diag, Arena **module_arena, IrModule *m)
{
    const char *why;
    if (!ir_verify(*module_arena, m, &why))
    {
        diag_error(diag, (Span){0}, "the module is not well-formed: %s", why);
        return STATUS_BAD_INPUT;
    }
    for (uint32_t i = 0; i < m->files.len; i++)
        diag_add_file(diag, m->files.data[i], NULL, 0);
    const char *passes = options->passes ? options->passes : pass_pipeline_default;
    TRY(pass_manager_run(module_arena, &m, diag, passes, &options->pass_options));
    StrBuf text = strbuf_make(*module_arena);
    ir_print_module(&text, m);
    FILE *out;
    TRY(driver_open_output(options, &out));
    fputs(strbuf_text(&text), out);
    return driver_close_output(options, out);
}

Status cmd_opt(Arena *arena, const Options *options)
{
    const char *path = options->operand ? options->operand : "-", *text;
    size_t n_bytes;
    TRY(driver_read_file(arena, path, &text, &n_bytes));
    Diag *parse_diag = diag_create(arena);
    uint32_t file = diag_add_file(parse_diag, path, text, n_bytes);
    Arena *module_arena = arena_create();
    IrModule *m = ir_parse_module(module_arena, parse_diag, file, text, n_bytes);
    Status status = STATUS_BAD_INPUT;
    if (!m)
        driver_print_diag(parse_diag);
    else
    {
        Diag *diag = diag_create(arena); /* its files are the XML files that the spans of the ops refer to */
        status = run_passes(options, diag, &module_arena, m);
        driver_print_diag(diag);
        if (diag_error_count(diag) > 0)
            status_clear();
    }
    arena_destroy(module_arena);
    return status;
}

static const char *const trait_names[] = {"elementwise", "float",  "commutes", "view",    "reduce",    "leaf",
                                          "effect",      "costly", "template", "library", "composite", "random"};

Status cmd_ops(Arena *arena, const Options *options)
{
    (void)options;
    printf("%-15s %-8s %-7s %-34s %s\n", "op", "operands", "results", "attributes", "traits");
    for (int code = 1; code < IR_CODE_COUNT; code++)
    {
        const IrOpInfo *info = ir_op_info((IrCode)code);
        StrBuf operands = strbuf_make(arena), attrs = strbuf_make(arena);
        strbuf_addf(&operands, "%u", info->min_operands);
        if (info->max_operands == IR_MANY)
            strbuf_add(&operands, "+");
        else if (info->max_operands > info->min_operands)
            strbuf_addf(&operands, "-%u", info->max_operands);
        for (const IrAttrKey *key = info->required; *key; key++)
            strbuf_addf(&attrs, "%s%s", attrs.len ? " " : "", ir_attr_name(*key));
        for (const IrAttrKey *key = info->optional; *key; key++)
            strbuf_addf(&attrs, "%s[%s]", attrs.len ? " " : "", ir_attr_name(*key));
        printf("%-15s %-8s ", info->name, strbuf_text(&operands));
        if (info->n_results == IR_MANY)
            printf("%-7s", "any");
        else
            printf("%-7u", info->n_results);
        printf(" %-34s", strbuf_text(&attrs));
        for (size_t bit = 0; bit < sizeof trait_names / sizeof trait_names[0]; bit++)
            if (info->traits & 1u << bit)
                printf(" %s", trait_names[bit]);
        printf("\n");
    }
    return STATUS_OK;
}

Status cmd_schema(Arena *arena, const Options *options)
{
    (void)options;
    StrBuf text = strbuf_make(arena);
    frontend_schema_text(&text);
    fputs(strbuf_text(&text), stdout);
    return STATUS_OK;
}
