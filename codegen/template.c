/* The table of templates: what shapes each takes, how its work is cut in tasks, and its C wrapper. */
#include "codegen/template.h"

#include "base/bug.h"
#include "codegen/scalar.h"

typedef struct
{
    const IrModule *m;
    const IrOpData *op;
    const IrType *types[16]; /* operands, then results */
    uint32_t number;
} Use;

typedef struct
{
    const char *helpers;
    const char *(*check)(const Use *use); /* NULL: fine; otherwise why not */
    CodegenKernelInfo (*info)(const Use *use);
    void (*print_c)(StrBuf *out, const Use *use); /* body of k<number>_0 */
} Template;

enum
{
    GATHER_ELEMS = 32768, /* of a task */
    SCATTER_COLUMNS = 64
};

static int64_t tasks_of(int64_t n, int64_t per_task)
{
    return (n + per_task - 1) / per_task;
}

/* ---- gather */

static int64_t gather_width(const Use *use)
{
    return ir_type_n_elems(use->types[0]) / use->types[0]->dims[0];
}

static int64_t gather_rows_per_task(const Use *use)
{
    return gather_width(use) >= GATHER_ELEMS ? 1 : GATHER_ELEMS / gather_width(use);
}

static CodegenKernelInfo gather_info(const Use *use)
{
    return (CodegenKernelInfo){.n_phases = 1,
                               .n_tasks = {tasks_of(ir_type_n_elems(use->types[1]), gather_rows_per_task(use))}};
}

static void gather_print_c(StrBuf *out, const Use *use)
{
    int64_t n = ir_type_n_elems(use->types[1]), per_task = gather_rows_per_task(use);
    strbuf_addf(out,
                "    const int64_t lo = task * %lld, hi = lo + %lld < %lld ? lo + %lld : %lld;\n"
                "    ptc_gather(bufs[0], bufs[1], bufs[2], %lld, %lld, lo, hi);\n",
                (long long)per_task, (long long)per_task, (long long)n, (long long)per_task, (long long)n,
                (long long)use->types[0]->dims[0],
                (long long)(gather_width(use) * dtype_size_bytes((DType)use->types[0]->dtype)));
}

static const char *gather_check(const Use *use)
{
    return ir_type_n_elems(use->types[0]) == 0 || ir_type_n_elems(use->types[1]) == 0 ? "an empty gather" : NULL;
}

/* ---- scatter_add */

static const char *scatter_check(const Use *use)
{
    return use->types[1]->dtype != DT_F32 ? "scatter_add of a dtype that is not f32" : NULL;
}

static int64_t scatter_width(const Use *use)
{
    return ir_type_n_elems(use->types[2]) / use->types[2]->dims[0];
}

static CodegenKernelInfo scatter_info(const Use *use)
{
    return (CodegenKernelInfo){.n_phases = 1, .n_tasks = {tasks_of(scatter_width(use), SCATTER_COLUMNS)}};
}

static void scatter_print_c(StrBuf *out, const Use *use)
{
    long long width = (long long)scatter_width(use);
    strbuf_addf(out,
                "    const int64_t lo = task * %d, hi = lo + %d < %lld ? lo + %d : %lld;\n"
                "    ptc_scatter_add(bufs[0], bufs[1], bufs[2], %lld, %lld, %lld, lo, hi);\n",
                SCATTER_COLUMNS, SCATTER_COLUMNS, width, SCATTER_COLUMNS, width, (long long)use->types[2]->dims[0],
                width, (long long)ir_type_n_elems(use->types[0]));
}

/* ---- the table */

static const Template templates[IR_CODE_COUNT] = {
    [IR_gather] = {codegen_text_gather_c, gather_check, gather_info, gather_print_c},
    [IR_scatter_add] = {codegen_text_gather_c, scatter_check, scatter_info, scatter_print_c},
};

static Use use_of(const IrModule *m, IrOp op, uint32_t number)
{
    Use use = {.m = m, .op = ir_op(m, op), .number = number};
    uint32_t n = 0;
    for (uint32_t i = 0; i < use.op->n_operands; i++)
        use.types[n++] = ir_value_type(m, use.op->operands[i]);
    for (uint32_t i = 0; i < use.op->n_results; i++)
        use.types[n++] = ir_value_type(m, use.op->results[i]);
    return use;
}

IrOp template_find(const IrModule *m, IrFunc func)
{
    IR_FOR_OPS(m, func, op)
    {
        if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_TEMPLATE))
            return op;
    }
    return 0;
}

bool template_supported(Arena *scratch, const IrModule *m, IrFunc func, const char **out_why)
{
    IrOp op = template_find(m, func);
    const IrOpData *data = ir_op(m, op);
    uint32_t n_args = 0, n_outputs = 0;
    bool plain = true;
    (void)scratch;
    IR_FOR_OPS(m, func, o)
    {
        const IrOpData *other = ir_op(m, o);
        if (other->code == IR_arg)
            plain &= n_args < data->n_operands && data->operands[n_args++] == other->results[0];
        else if (other->code == IR_output)
            plain &= n_outputs < data->n_results && data->results[n_outputs++] == other->operands[0];
        else
            plain &= o == op;
    }
    if (!plain || n_args != data->n_operands || n_outputs != data->n_results)
    {
        *out_why = "a template op must be alone in its kernel, on the args in order";
        return false;
    }
    const Template *t = &templates[data->code];
    if (!t->info)
    {
        *out_why = "no template for this op";
        return false;
    }
    Use use = use_of(m, op, 0);
    *out_why = t->check(&use);
    return *out_why == NULL;
}

CodegenKernelInfo template_info(const IrModule *m, IrFunc func)
{
    IrOp op = template_find(m, func);
    Use use = use_of(m, op, 0);
    return templates[use.op->code].info(&use);
}

void template_print_c_helpers(StrBuf *out, const IrModule *m)
{
    const char *printed[8] = {NULL};
    uint32_t n_printed = 0;
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL || !template_find(m, func))
            continue;
        const char *helpers = templates[ir_op(m, template_find(m, func))->code].helpers;
        bool seen = false;
        for (uint32_t i = 0; i < n_printed; i++)
            seen |= printed[i] == helpers;
        if (seen)
            continue;
        printed[n_printed++] = helpers;
        strbuf_add(out, helpers);
    }
}

void template_print_c(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number)
{
    IrOp op = template_find(m, func);
    Use use = use_of(m, op, number);
    strbuf_addf(out,
                "static void k%u_0(void *const *bufs, void *workspace, void *scratch, int64_t task)\n{\n"
                "    (void)workspace, (void)scratch;\n",
                number);
    templates[use.op->code].print_c(out, &use);
    strbuf_add(out, "}\n\n");
}
