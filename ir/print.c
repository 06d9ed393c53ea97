/* IR to text (grammar: docs/ir.md). Deterministic: values are numbered in program order in each function, attributes
 * come in key order. Prints broken modules as well, for messages and dumps: an operand that the function does not
 * define before is written `%?ID`, which the parser refuses. */
#include "base/bug.h"
#include "ir/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

static const char *const func_kinds[] = {[IR_FUNC_STEP] = "step", [IR_FUNC_KERNEL] = "kernel"};
static const char *const global_kinds[] = {[IR_GLOBAL_PARAM] = "param",
                                           [IR_GLOBAL_STATE] = "state",
                                           [IR_GLOBAL_INPUT] = "input",
                                           [IR_GLOBAL_OUTPUT] = "output",
                                           [IR_GLOBAL_COPY] = "copy"};

static void print_type(StrBuf *buf, const IrType *type)
{
    strbuf_add(buf, dtype_name((DType)type->dtype));
    strbuf_add(buf, "[");
    for (int i = 0; i < type->rank; i++)
        strbuf_addf(buf, i ? "x%" PRId64 : "%" PRId64, type->dims[i]);
    strbuf_add(buf, "]");
}

static void print_attr_value(StrBuf *buf, const IrAttr *attr)
{
    switch (ir_attr_kind(attr->key))
    {
    case IR_KIND_INT:
        strbuf_addf(buf, "%" PRId64, attr->i);
        return;
    case IR_KIND_FLOAT:
        strbuf_add_f64(buf, attr->f);
        return;
    case IR_KIND_BOOL:
        strbuf_add(buf, attr->i ? "true" : "false");
        return;
    case IR_KIND_STR:
        strbuf_add_quoted(buf, attr->s);
        return;
    case IR_KIND_INTS:
        strbuf_add(buf, "[");
        for (uint32_t i = 0; i < attr->n; i++)
            strbuf_addf(buf, i ? ", %" PRId64 : "%" PRId64, attr->ints[i]);
        strbuf_add(buf, "]");
        return;
    }
}

static void print_attrs(StrBuf *buf, const IrAttrs *attrs)
{
    if (attrs->len == 0)
        return;
    for (uint32_t i = 0; i < attrs->len; i++)
    {
        strbuf_add(buf, i ? ", " : " {");
        strbuf_add(buf, ir_attr_name(attrs->data[i].key));
        strbuf_add(buf, "=");
        print_attr_value(buf, &attrs->data[i]);
    }
    strbuf_add(buf, "}");
}

static void print_loc(StrBuf *buf, const Span *span)
{
    if (span->file)
        strbuf_addf(buf, " loc(%u:%u:%u)", span->file, span->line, span->col);
}

static void print_func_name(StrBuf *buf, const char *name)
{
    bool plain = *name != 0;
    for (const char *c = name; *c; c++)
        plain &= isalnum((unsigned char)*c) || *c == '_' || *c == '.' || *c == '-';
    strbuf_add(buf, "@");
    if (plain)
        strbuf_add(buf, name);
    else
        strbuf_add_quoted(buf, name);
}

/* numbers[v] is v's number + 1; 0: not seen so far in this function. */
static void print_operand(StrBuf *buf, const uint32_t *numbers, IrValue value, uint32_t n_values)
{
    if (value < n_values && numbers[value])
        strbuf_addf(buf, "%%%u", numbers[value] - 1);
    else
        strbuf_addf(buf, "%%?%u", value);
}

static void print_op(StrBuf *buf, const IrModule *m, const IrOpData *op, const uint32_t *numbers)
{
    static const char *const phases[] = {
        [IR_PHASE_FORWARD] = "", [IR_PHASE_BACKWARD] = " bwd", [IR_PHASE_OPTIMIZER] = " opt"};
    for (uint32_t i = 0; i < op->n_results; i++)
    {
        strbuf_add(buf, i ? ", " : "");
        print_operand(buf, numbers, op->results[i], m->values.len);
    }
    strbuf_add(buf, op->n_results ? " = " : "");
    strbuf_add(buf, ir_op_info(op->code)->name);
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        strbuf_add(buf, i ? ", " : " ");
        print_operand(buf, numbers, op->operands[i], m->values.len);
    }
    print_attrs(buf, &op->attrs);
    for (uint32_t i = 0; i < op->n_results; i++)
    {
        strbuf_add(buf, i ? ", " : " : ");
        print_type(buf, ir_value_type(m, op->results[i]));
    }
    print_loc(buf, &op->span);
    if (op->unit)
        strbuf_addf(buf, " u%u", op->unit);
    strbuf_add(buf, phases[op->phase]);
}

static void number_results(uint32_t *numbers, uint32_t *next, const IrOpData *op)
{
    for (uint32_t i = 0; i < op->n_results; i++)
        numbers[op->results[i]] = ++*next;
}

static void print_func(StrBuf *buf, const IrModule *m, IrFunc func, uint32_t *numbers)
{
    const IrFuncData *f = ir_func(m, func);
    strbuf_addf(buf, "func %s ", func_kinds[f->kind]);
    print_func_name(buf, f->name);
    print_attrs(buf, &f->attrs);
    strbuf_add(buf, " {\n");
    uint32_t next = 0;
    IR_FOR_OPS(m, func, op)
    {
        number_results(numbers, &next, ir_op(m, op));
        strbuf_add(buf, "  ");
        print_op(buf, m, ir_op(m, op), numbers);
        strbuf_add(buf, "\n");
    }
    strbuf_add(buf, "}\n");
    IR_FOR_OPS(m, func, op) /* numbers of one function mean nothing in the next */
    for (uint32_t i = 0; i < ir_op(m, op)->n_results; i++)
        numbers[ir_op_result(m, op, i)] = 0;
}

void ir_print_func(StrBuf *buf, const IrModule *m, IrFunc func)
{
    print_func(buf, m, func, ARENA_ARRAY(buf->arena, uint32_t, m->values.len));
}

void ir_print_module(StrBuf *buf, const IrModule *m)
{
    uint32_t *numbers = ARENA_ARRAY(buf->arena, uint32_t, m->values.len);
    strbuf_add(buf, "module ");
    strbuf_add_quoted(buf, m->name);
    strbuf_add(buf, "\n");
    for (uint32_t i = 0; i < m->files.len; i++)
    {
        strbuf_addf(buf, "file %u ", i + 1);
        strbuf_add_quoted(buf, m->files.data[i]);
        strbuf_add(buf, "\n");
    }
    for (uint32_t i = 1; i < m->globals.len; i++)
    {
        const IrGlobalData *global = ir_global(m, i);
        strbuf_addf(buf, "global %s ", global_kinds[global->kind]);
        strbuf_add_quoted(buf, global->name);
        strbuf_add(buf, " : ");
        print_type(buf, &global->type);
        print_attrs(buf, &global->attrs);
        print_loc(buf, &global->span);
        strbuf_add(buf, "\n");
    }
    IR_FOR_FUNCS(m, f)
    {
        strbuf_add(buf, "\n");
        print_func(buf, m, f, numbers);
    }
}

const char *ir_print_op(Arena *arena, const IrModule *m, IrOp op)
{
    StrBuf buf = strbuf_make(arena);
    uint32_t *numbers = ARENA_ARRAY(arena, uint32_t, m->values.len);
    uint32_t next = 0;
    if (ir_op(m, op)->func)
        for (IrOp at = ir_func(m, ir_op(m, op)->func)->first; at; at = ir_op(m, at)->next)
        {
            number_results(numbers, &next, ir_op(m, at));
            if (at == op)
                break;
        }
    print_op(&buf, m, ir_op(m, op), numbers);
    return strbuf_text(&buf);
}
