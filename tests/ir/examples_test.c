/* Every example of ops.def: builds, is accepted by the verifier, and survives print and parse to the byte. */
#include "example.h"

#include "base/strbuf.h"
#include "harness/test.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <string.h>

static const char *print(Arena *arena, const IrModule *m)
{
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

static IrModule *parse(Arena *arena, const char *text)
{
    Diag *diag = diag_create(arena);
    uint32_t file = diag_add_file(diag, "text", text, strlen(text));
    IrModule *m = ir_parse_module(arena, diag, file, text, strlen(text));
    diag_print(diag, stderr, false);
    return m;
}

static void check_module(Arena *arena, const IrModule *m)
{
    const char *why;
    if (!ir_verify(arena, m, &why))
        fail_msg("%s: %s", m->name, why);
    const char *text = print(arena, m);
    IrModule *again = parse(arena, text);
    if (!again)
        fail_msg("%s is not read:\n%s", m->name, text);
    assert_string_equal(text, print(arena, again));
    if (!ir_verify(arena, again, &why))
        fail_msg("%s after parsing: %s", m->name, why);
}

static void test_examples(void **state)
{
    (void)state;
    assert_true(example_count() > IR_CODE_COUNT / 2);
    for (uint32_t i = 0; i < example_count(); i++)
    {
        Arena *arena = arena_create();
        Example example = example_at(arena, i);
        for (ExampleOperands kind = EXAMPLE_INPUTS; kind <= EXAMPLE_PARAMS; kind++)
        {
            IrModule *m = ir_module_create(arena, example.label);
            vec_push(arena, &m->files, "model.xml");
            IrOp op = example_build(m, &example, kind, "train");
            ir_op(m, op)->span = (Span){.file = 1, .line = i + 1, .col = 7};
            ir_op(m, op)->unit = i % 3;
            ir_op(m, op)->phase = (IrPhase)(i % 3);
            check_module(arena, m);
            check_module(arena, ir_module_clone(arena, m));
        }
        arena_destroy(arena);
    }
}

static void test_values(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    for (uint32_t i = 0; i < example_count(); i++)
    {
        Example example = example_at(arena, i);
        for (uint32_t k = 0; k < example.n_operands; k++)
        {
            int64_t n_elems = ir_type_n_elems(&example.operands[k]);
            double *values = ARENA_ARRAY(arena, double, n_elems);
            example_values(&example, k, 1, values);
            for (int64_t e = 0; e < n_elems; e++)
                if (values[e] < (example.positive[k] ? 0.5 : -2) || values[e] > 4)
                    fail_msg("%s: value %g", example.label, values[e]);
        }
    }
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples), cmocka_unit_test(test_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
