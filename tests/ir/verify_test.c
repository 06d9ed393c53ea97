/* Broken modules that text cannot say (the others: tests/golden/ir/verify.ptir): what a wrong pass leaves behind. */
#include "base/strbuf.h"
#include "harness/test.h"
#include "ir/builder.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <string.h>

typedef struct
{
    IrModule *m;
    IrFunc func;
    IrOp get, neg, set;
} Broken;

/* set(neg(get x)) in @f, and an empty @g. */
static Broken make(Arena *arena)
{
    Broken b = {.m = ir_module_create(arena, "broken")};
    IrType type = ir_type(DT_F32, 1, (const int64_t[]){4});
    ir_global_add(b.m, IR_GLOBAL_INPUT, "x", type, NULL, 0, (Span){0});
    ir_global_add(b.m, IR_GLOBAL_OUTPUT, "y", type, NULL, 0, (Span){0});
    b.func = ir_func_add(b.m, IR_FUNC_STEP, "f");
    ir_func_add(b.m, IR_FUNC_STEP, "g");
    IrBuilder builder = ir_builder(b.m, b.func);
    IrValue x = ir_build_get(&builder, "x"), y = ir_build1(&builder, IR_neg, x);
    ir_build_set(&builder, "y", y);
    b.get = ir_value(b.m, x)->def;
    b.neg = ir_value(b.m, y)->def;
    b.set = ir_func(b.m, b.func)->last;
    return b;
}

static void break_nothing(Broken *b)
{
    (void)b;
}

static void break_removed(Broken *b)
{
    ir_op_remove(b->m, b->neg);
}

static void break_order(Broken *b)
{
    ir_op_move(b->m, b->get, b->set);
}

static void break_other_func(Broken *b)
{
    IrType type = *ir_value_type(b->m, ir_op_result(b->m, b->get, 0));
    IrValue x = ir_op_result(b->m, b->get, 0);
    ir_op_insert(b->m, ir_func_find(b->m, "g"), 0, IR_neg, &x, 1, &type, 1, NULL, 0);
}

static void break_no_value(Broken *b)
{
    ir_op(b->m, b->neg)->operands[0] = 0;
}

static void break_operand_count(Broken *b)
{
    ir_op(b->m, b->neg)->n_operands = 0;
}

static void break_extent(Broken *b)
{
    ir_value(b->m, ir_op_result(b->m, b->neg, 0))->type.dims[0] = 0;
}

static void break_result(Broken *b)
{
    ir_op(b->m, b->neg)->results[0] = ir_op_result(b->m, b->get, 0);
}

static void break_code(Broken *b)
{
    ir_op(b->m, b->neg)->code = IR_CODE_COUNT;
}

static void break_links(Broken *b)
{
    ir_op(b->m, b->set)->prev = b->get;
}

static void break_loop(Broken *b)
{
    ir_op(b->m, b->set)->next = b->get;
    ir_op(b->m, b->get)->prev = b->set;
}

static void break_span(Broken *b)
{
    ir_op(b->m, b->neg)->span = (Span){.file = 3, .line = 1};
}

static void break_attrs(Broken *b)
{
    ir_op(b->m, b->get)->attrs.data[0].s = NULL;
}

static void break_func_name(Broken *b)
{
    ir_func(b->m, ir_func_find(b->m, "g"))->name = "f";
}

static void break_global_name(Broken *b)
{
    ir_global(b->m, ir_global_find(b->m, "y"))->name = "x";
}

static const struct
{
    void (*damage)(Broken *b);
    const char *why; /* NULL: accepted */
} cases[] = {
    {break_nothing, NULL},
    {break_removed, "func @f: set %?2 {global=\"y\"}: operand 1 is not defined before"},
    {break_order, "func @f: %0 = neg %?1 : f32[4]: operand 1 is not defined before"},
    {break_other_func, "func @g: %0 = neg %?1 : f32[4]: operand 1 is not defined before"},
    {break_no_value, "func @f: %1 = neg %?0 : f32[4]: operand 1 is not defined before"},
    {break_operand_count, "func @f: %1 = neg : f32[4]: has 0 operands, expected 1"},
    {break_extent, "func @f: the type f32[0] is empty or too large"},
    {break_result, "func @f: result 1 of op 2 is defined elsewhere"},
    {break_code, "func @f: op 2 has no known code"},
    {break_links, "func @f: the links behind op 2 are broken"},
    {break_loop, "func @f: the list of ops does not begin with its first op"},
    {break_span, "func @f: %1 = neg %0 : f32[4] loc(3:1:0): is at a place in file 3 of 0"},
    {break_attrs, "func @f: attribute 'global' has no value"},
    {break_func_name, "func @f: there is another function of that name"},
    {break_global_name, "global \"x\": there is another of that name"},
};

static void test_broken_modules(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        Arena *arena = arena_create();
        Broken b = make(arena);
        cases[i].damage(&b);
        const char *why = "";
        bool ok = ir_verify(arena, b.m, &why);
        if (ok != !cases[i].why)
            fail_msg("case %u: %s", i, ok ? "accepted" : why);
        if (!ok)
            assert_string_equal(why, cases[i].why);
        arena_destroy(arena);
    }
}

/* A dump of a broken module must be possible, and must not read as a right one. */
static void test_broken_text_is_refused(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    Broken b = make(arena);
    break_removed(&b);
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, b.m);
    Diag *diag = diag_create(arena);
    uint32_t file = diag_add_file(diag, "text", buf.data, buf.len);
    assert_null(ir_parse_module(arena, diag, file, buf.data, buf.len));
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_broken_modules),
                                       cmocka_unit_test(test_broken_text_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
