/* Examples are read by the IR parser: the types as globals, the attributes as those of a function. */
#include "example.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/builder.h"
#include "ir/text.h"

#include <string.h>

typedef struct
{
    const char *op, *types, *attrs;
} Row;

static const Row rows[] = {
/* the table */
#define EXAMPLE(types, attrs)                                                   types, attrs
#define NOEXAMPLE                                                               NULL, NULL
#define OP(name, in, out, required, optional, shape, traits, grad, scalar, ...) {#name, __VA_ARGS__},
#include "ir/ops.def"
#undef OP
    /* variants */
    {"const", "-> i32[]", "value=-3"},
    {"const", "-> bool[4]", "value=1"},
    {"iota", "-> f32[2x3x4]", "axis=0"},
    {"cast", "f32[3x4] -> i32[3x4]", ""},
    {"cast", "u8[3x4] -> f32[3x4]", ""},
    {"cast", "f32[3x4] -> bf16[3x4]", ""},
    {"cast", "bf16[3x4] -> f32[3x4]", ""},
    {"cast", "bool[3x4] -> f32[3x4]", ""},
    {"cast", "i32[3x4] -> bool[3x4]", ""},
    {"add", "i32[3x4], i32[3x4]", ""},
    {"max", "i32[5], i32[5]", ""},
    {"mul", "f32[], f32[]", ""},
    {"lt", "i32[3x4], i32[3x4]", ""},
    {"reshape", "f32[1] -> f32[]", ""},
    {"broadcast", "f32[] -> f32[2x3]", "dims=[]"},
    {"broadcast", "f32[2x4] -> f32[2x3x4]", "dims=[0,2]"},
    {"reduce_sum", "f32[2x3x4]", "axes=[0]"},
    {"reduce_sum", "f32[2x3x4]", "axes=[0,1]"},
    {"reduce_sum", "f32[2x3x4]", "axes=[1]"},
    {"reduce_sum", "f32[2x3x4]", "axes=[0,1,2]"},
    {"reduce_sum", "i32[2x3]", "axes=[1]"},
    {"reduce_max", "f32[2x3x4]", "axes=[0,2]"},
    {"gather", "f32[5], i32[2x3]", ""},
    {"einsum", "f32[2x3x4], f32[2x4x5]", "expr=\"abc,acd->abd\""},
    {"einsum", "f32[2x3x2x4], f32[2x5x2x4]", "expr=\"bthd,bshd->bhts\""},
    {"einsum", "f32[3], f32[4]", "expr=\"a,b->ba\""},
    {"matmul", "f32[4x3], f32[4x5]", "ta=true"},
    {"matmul", "f32[3x4], f32[5x4]", "tb=true"},
    {"matmul", "f32[4x3], f32[5x4]", "ta=true, tb=true"},
    {"matmul", "f32[2x3x4], f32[2x4x5]", ""},
    {"matmul", "f32[3x4], f32[4x5], f32[5]", "bias=true"},
    {"matmul", "f32[3x4], f32[4x5], f32[5], f32[3x5]", "bias=true, residual=true"},
    {"matmul", "f32[3x4], f32[4x5], f32[3x5]", "residual=true"},
    {"matmul", "f32[3x4], f32[4x5]", "act=\"relu\""},
    {"matmul", "f32[3x4], f32[4x5], f32[5]", "bias=true, act=\"gelu_erf\""},
    {"matmul", "f32[3x4], f32[4x5], f32[5]", "bias=true, act=\"gelu_tanh\""},
    {"matmul", "f32[3x4], f32[4x5], f32[5], f32[3x5]", "bias=true, act=\"silu\", residual=true"},
    {"softmax", "f32[2x3x4]", ""},
    {"layer_norm", "f32[2x3x8], f32[8], f32[8]", "eps=0.001"},
    {"cross_entropy", "f32[2x3x5], i32[2x3]", ""},
    {"attention", "f32[2x5x2x4], f32[2x5x2x4], f32[2x5x2x4]", "scale=0.5, causal=true"},
    {"attention", "f32[2x5x2x4], f32[2x5x2x4], f32[2x5x2x4]", "scale=0.5, window=1"},
    {"attention", "f32[2x3x4x4], f32[2x5x2x4], f32[2x5x2x4]", "scale=0.5, causal=true"},
    {"attention", "f32[2x5x6x4]", "scale=0.5, packed=true"},
    {"attention", "f32[2x5x2x4], f32[2x5x2x4], f32[2x5x2x4], f32[1x2x5x5]", "scale=0.5, bias=true"},
    {"attention", "f32[2x5x2x4], f32[2x5x2x4], f32[2x5x2x4], i32[2], i32[2]", "scale=0.5, p=0.25, stream=9"},
};

static const Row *row_at(uint32_t index)
{
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].types && index-- == 0)
            return &rows[i];
    return NULL;
}

uint32_t example_count(void)
{
    uint32_t n = 0;
    while (row_at(n))
        n++;
    return n;
}

/* Operand types as globals in0, in1, ...; the given result type as "given". */
static const char *row_text(Arena *arena, const Row *row, Example *example)
{
    StrBuf buf = strbuf_make(arena);
    strbuf_add(&buf, "module \"example\"\n");
    char *rest = arena_strdup(arena, row->types);
    char *arrow = strstr(rest, "->");
    if (arrow)
    {
        example->has_given = true;
        strbuf_addf(&buf, "global input \"given\" : %s\n", arrow + 2);
        *arrow = 0;
    }
    char *next = NULL;
    for (char *type = strtok_r(rest, ", ", &next); type; type = strtok_r(NULL, ", ", &next))
    {
        ENSURE(example->n_operands < EXAMPLE_MAX_OPERANDS);
        char *mark = strstr(type, ">0");
        if (mark)
            *mark = 0;
        example->positive[example->n_operands] = mark != NULL;
        strbuf_addf(&buf, "global input \"in%u\" : %s\n", example->n_operands++, type);
    }
    strbuf_add(&buf, "func step @attrs ");
    if (*row->attrs)
        strbuf_addf(&buf, "{%s} ", row->attrs);
    strbuf_add(&buf, "{\n}\n");
    return strbuf_text(&buf);
}

Example example_make(Arena *arena, const char *op, const char *types, const char *attrs)
{
    const Row row = {op, types, attrs};
    Example example = {.code = ir_code_by_name(op)};
    ENSURE(example.code != IR_INVALID);
    example.label = arena_printf(arena, *row.attrs ? "%s %s {%s}" : "%s %s", row.op, row.types, row.attrs);
    const char *text = row_text(arena, &row, &example);
    Diag *diag = diag_create(arena);
    uint32_t file = diag_add_file(diag, example.label, text, strlen(text));
    const IrModule *m = ir_parse_module(arena, diag, file, text, strlen(text));
    if (!m)
    {
        diag_print(diag, stderr, false);
        BUG("bad example '%s'", example.label);
    }
    for (uint32_t i = 0; i < example.n_operands; i++)
        example.operands[i] = ir_global(m, ir_global_find(m, arena_printf(arena, "in%u", i)))->type;
    if (example.has_given)
        example.given = ir_global(m, ir_global_find(m, "given"))->type;
    example.attrs = ir_func(m, ir_func_find(m, "attrs"))->attrs;
    return example;
}

Example example_at(Arena *arena, uint32_t index)
{
    const Row *row = row_at(index);
    ENSURE(row);
    return example_make(arena, row->op, row->types, row->attrs);
}

IrOp example_build(IrModule *m, const Example *example, ExampleOperands operands, const char *func_name)
{
    IrFunc func = ir_func_add(m, IR_FUNC_STEP, func_name);
    IrBuilder b = ir_builder(m, func);
    IrValue in[EXAMPLE_MAX_OPERANDS];
    for (uint32_t i = 0; i < example->n_operands; i++)
    {
        const char *name = arena_printf(m->arena, "in%u", i);
        bool param = operands == EXAMPLE_PARAMS && dtype_is_float((DType)example->operands[i].dtype);
        IrAttr attrs[] = {ir_attr_bool(IR_ATTR_trainable, true)};
        ir_global_add(m, param ? IR_GLOBAL_PARAM : IR_GLOBAL_INPUT, name, example->operands[i], attrs, param,
                      (Span){0});
        in[i] = ir_build_get(&b, name);
    }
    const char *why;
    IrOp op = ir_try_op(&b, example->code, example->has_given ? &example->given : NULL, in, example->n_operands,
                        example->attrs.data, example->attrs.len, &why);
    if (!op)
        BUG("example '%s': %s", example->label, why);
    for (uint32_t i = 0; i < ir_op(m, op)->n_results; i++)
    {
        const char *name = arena_printf(m->arena, "out%u", i);
        IrValue result = ir_op_result(m, op, i);
        ir_global_add(m, IR_GLOBAL_OUTPUT, name, *ir_value_type(m, result), NULL, 0, (Span){0});
        ir_build_set(&b, name, result);
    }
    return op;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void example_values(const Example *example, uint32_t operand, uint64_t seed, double *out_values)
{
    const IrType *type = &example->operands[operand];
    uint64_t state = seed * 1000003 + operand;
    int64_t n_elems = ir_type_n_elems(type);
    for (int64_t i = 0; i < n_elems; i++)
    {
        uint64_t random = next_random(&state);
        if (example->positive[operand])
            out_values[i] = (double)(random % 128) / 64 + 0.5;
        else if (dtype_is_float((DType)type->dtype))
            out_values[i] = (double)(random % 256) / 64 - 2;
        else
            out_values[i] = (double)(random % (type->dtype == DT_BOOL ? 2 : 5));
    }
}
