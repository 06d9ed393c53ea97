/* What of pipeline schedules is text: names, lists, what a list that is none is told, traces. */
#include "harness/test.h"
#include "passes/pipeline.h"

#include <string.h>

static PipelineStage *equal_stages(Arena *arena, uint32_t n_stages, PipelineStage one)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
        stages[s] = one;
    return stages;
}

static void test_names(void **state)
{
    (void)state;
    PipelineKind kind;
    for (int i = 0; i < PIPELINE_COUNT; i++)
    {
        assert_true(pipeline_by_name(pipeline_name((PipelineKind)i), &kind));
        assert_int_equal(kind, i);
    }
    assert_false(pipeline_by_name("2f2b", &kind));
    assert_string_equal(pipeline_name(PIPELINE_one_f_one_b), "1f1b");
    assert_true(pipeline_splits_backward(PIPELINE_zb_h1));
    assert_false(pipeline_splits_backward(PIPELINE_gpipe));
}

static void test_text(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    for (int kind = 0; kind < PIPELINE_COUNT; kind++)
    {
        PipelineStage *stages = equal_stages(arena, 5, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
        PipelineList *lists = pipeline_build(arena, (PipelineKind)kind, 12, stages, 5);
        for (uint32_t s = 0; s < 5; s++)
        {
            PipelineList again;
            const char *why = NULL, *text = pipeline_list_text(arena, &lists[s]);
            if (!pipeline_list_parse(arena, text, 12, &again, &why))
                fail_msg("%s: %s: %s", pipeline_name((PipelineKind)kind), text, why);
            assert_string_equal(pipeline_list_text(arena, &again), text);
        }
    }
    arena_destroy(arena);
}

static void test_parse_errors(void **state)
{
    (void)state;
    static const struct
    {
        const char *text, *why;
    } cases[] = {
        {"F0 F1 B0 B1", NULL},
        {"F0 B0 F1 W0 B1 W1", NULL},
        {"", "F0 is missing"},
        {"F0 F1 B0", "B1 is missing"},
        {"F0 F1 B0 B1 W0", "W1 is missing"},
        {"F0 F1 B1 B0", "B1 stands where only B0 may"},
        {"F0 F0 F1 B0 B1", "F0 stands twice"},
        {"F0 B0 B1 F1", "B1 stands before F1"},
        {"F0 W0 B0 F1 B1 W1", "W0 stands before B0"},
        {"F0 F1 F2 B0 B1", "F2: there are 2 micro-batches, from 0"},
        {"F0 F1  B0 B1", "instructions are separated by one space each"},
        {"F0 F1 B0 B1 ", "instructions are separated by one space each"},
        {" F0 F1 B0 B1", "instructions are separated by one space each"},
        {"F0 F01 B0 B1", "'F01' is not F, B or W and the number of a micro-batch"},
        {"F0 G1 B0 B1", "'G1' is not F, B or W and the number of a micro-batch"},
        {"F0 F B0 B1", "'F' is not F, B or W and the number of a micro-batch"},
        {"F0 F+1 B0 B1", "'F+1' is not F, B or W and the number of a micro-batch"},
        {"F0 F4294967296", "'F4294967296' is not F, B or W and the number of a micro-batch"},
        {"F0,F1", "'F0,F1' is not F, B or W and the number of a micro-batch"},
    };
    Arena *arena = arena_create();
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        PipelineList list;
        const char *why;
        bool good = pipeline_list_parse(arena, cases[i].text, 2, &list, &why);
        if (good != !cases[i].why || (why && cases[i].why && strcmp(why, cases[i].why) != 0))
            fail_msg("\"%s\": %s", cases[i].text, why ? why : "is taken");
    }
    arena_destroy(arena);
}

static void test_trace(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    PipelineStage *stages =
        equal_stages(arena, 2, (PipelineStage){.forward_s = 1e-3, .backward_s = 2e-3, .update_s = 5e-4});
    const char *const texts[] = {"F0 B0", "F0 B0"};
    PipelineList lists[2];
    const char *why;
    for (uint32_t s = 0; s < 2; s++)
        assert_true(pipeline_list_parse(arena, texts[s], 1, &lists[s], &why));
    PipelineTimes times = pipeline_simulate(arena, lists, stages, 2, 0);
    StrBuf buf = strbuf_make(arena);
    pipeline_trace(&buf, lists, &times, 2);
    assert_string_equal(strbuf_text(&buf),
                        "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
                        "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"args\":{\"name\":\"stage 0\"}},\n"
                        "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"stage 1\"}},\n"
                        "{\"name\":\"F0\",\"ph\":\"X\",\"pid\":0,\"tid\":0,\"ts\":0.000,\"dur\":1000.000},\n"
                        "{\"name\":\"B0\",\"ph\":\"X\",\"pid\":0,\"tid\":0,\"ts\":4000.000,\"dur\":2000.000},\n"
                        "{\"name\":\"update\",\"ph\":\"X\",\"pid\":0,\"tid\":0,\"ts\":6000.000,\"dur\":500.000},\n"
                        "{\"name\":\"F0\",\"ph\":\"X\",\"pid\":1,\"tid\":0,\"ts\":1000.000,\"dur\":1000.000},\n"
                        "{\"name\":\"B0\",\"ph\":\"X\",\"pid\":1,\"tid\":0,\"ts\":2000.000,\"dur\":2000.000},\n"
                        "{\"name\":\"update\",\"ph\":\"X\",\"pid\":1,\"tid\":0,\"ts\":4000.000,\"dur\":500.000}\n"
                        "]}\n");
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_parse_errors),
        cmocka_unit_test(test_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
