/* What fuse and plan_memory leave, kernels that can be generated and sound memory plans: of random modules, of a Vision
 * Transformer's training step, and of programs with a trap in them. */
#include "block.h"
#include "plan_check.h"
#include "random_module.h"

#include "base/diag.h"
#include "base/strbuf.h"
#include "codegen/codegen.h"
#include "harness/test.h"
#include "ir/text.h"
#include "passes/manager.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_OPS = 60
};

static void run_passes(Arena **arena, IrModule **m, const char *passes)
{
    PassOptions options = {.verify_each = true};
    Diag *diag = diag_create(*arena);
    Status status = pass_manager_run(arena, m, diag, passes, &options);
    diag_print(diag, stdout, false);
    assert_int_equal(status, STATUS_OK);
}

static PlanFacts check_all(const IrModule *m)
{
    Arena *arena = arena_create();
    PlanFacts facts = {0};
    IR_FOR_FUNCS(m, func)
    {
        PlanFacts one;
        const char *why;
        if (ir_func(m, func)->kind == IR_FUNC_KERNEL)
        {
            StrBuf text = strbuf_make(arena);
            ir_print_func(&text, m, func);
            if (!codegen_kernel_supported(arena, m, func, &why))
                fail_msg("%s: %s\n%s", m->name, why, strbuf_text(&text));
            continue;
        }
        why = plan_check(arena, m, func, &one);
        if (why)
            fail_msg("%s @%s: %s", m->name, ir_func(m, func)->name, why);
        if (one.arena_bytes >= facts.arena_bytes)
            facts = one;
    }
    arena_destroy(arena);
    return facts;
}

static void test_random(void **state)
{
    (void)state;
    const char *text = getenv("PTC_RANDOM_SEEDS");
    uint32_t n_seeds = text ? (uint32_t)strtoul(text, NULL, 10) : 200;
    printf("seeds 1..%u\n", n_seeds);
    for (uint32_t seed = 1; seed <= n_seeds; seed++)
    {
        Arena *arena = arena_create();
        IrModule *m = random_module(arena, seed, N_OPS);
        run_passes(&arena, &m, "decompose,dce,epilogue,dce,fuse,plan_memory");
        check_all(m);
        arena_destroy(arena);
        arena = arena_create();
        m = random_module(arena, seed, N_OPS);
        assert_true(random_module_make_trainable(m));
        run_passes(&arena, &m, pass_pipeline_default);
        check_all(m);
        arena_destroy(arena);
    }
}

static void test_training_step(void **state)
{
    (void)state;
    static const BlockSizes sizes[] = {
        {.batch = 8, .tokens = 49, .patch = 16, .width = 48, .heads = 4, .hidden = 192, .classes = 10, .n_layers = 3},
        {.batch = 8,
         .tokens = 49,
         .patch = 16,
         .width = 48,
         .heads = 4,
         .hidden = 192,
         .classes = 10,
         .n_layers = 6,
         .dropout = 0.1},
        {.batch = 1, .tokens = 7, .patch = 3, .width = 12, .heads = 3, .hidden = 17, .classes = 2, .n_layers = 1},
    };
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    {
        Arena *arena = arena_create();
        IrModule *m = block_module(arena, &sizes[i]);
        uint32_t n_params = 0;
        run_passes(&arena, &m, pass_pipeline_default);
        for (IrGlobal g = 1; g < m->globals.len; g++)
            n_params += ir_global(m, g)->kind == IR_GLOBAL_PARAM;
        PlanFacts facts = check_all(m);
        printf("arena %lld bytes, %lld alive at once; %u in place\n", (long long)facts.arena_bytes,
               (long long)facts.live_bytes, facts.n_in_place);
        assert_true((double)facts.arena_bytes <= 1.3 * (double)facts.live_bytes);
        assert_true(facts.n_over_old >= 3 * n_params); /* each param and its two moments */
        arena_destroy(arena);
    }
}

/* ---- passes over what an activation is between */

typedef struct
{
    int64_t by_kernels, by_matmuls; /* bytes of matrices of n_elems, read and written in forward and backward pass */
} Traffic;

static int64_t traffic_of(const IrModule *m, IrValue value, int64_t n_elems)
{
    const IrType *type = ir_value_type(m, value);
    return ir_type_n_elems(type) == n_elems ? ir_type_size_bytes(type) : 0;
}

static Traffic traffic_in_unit(const IrModule *m, uint32_t unit, int64_t n_elems)
{
    Traffic traffic = {0};
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const IrOpData *data = ir_op(m, op);
        int64_t bytes = 0;
        for (uint32_t i = 0; i < data->n_operands; i++)
            bytes += traffic_of(m, data->operands[i], n_elems);
        for (uint32_t i = 0; i < data->n_results; i++)
            bytes += traffic_of(m, data->results[i], n_elems);
        if (data->unit == unit && data->code == IR_call)
            traffic.by_kernels += bytes;
        if (data->unit == unit && data->code == IR_matmul)
            traffic.by_matmuls += bytes;
    }
    return traffic;
}

/* Where the library has the activation's gradient, no kernel reads or writes a matrix between the two products. */
static void test_activations_in_matmuls(void **state)
{
    (void)state;
    static const BlockSizes sizes = {
        .batch = 8, .tokens = 49, .patch = 16, .width = 48, .heads = 4, .hidden = 192, .classes = 10, .n_layers = 2};
    const int64_t n_elems = sizes.batch * sizes.tokens * sizes.hidden;
    for (int bf16 = 0; bf16 < 2; bf16++)
    {
        Arena *arena = arena_create();
        IrModule *m = block_module(arena, &sizes);
        if (bf16)
            ir_attrs_put(arena, &ir_func(m, ir_func_find(m, "train"))->attrs, ir_attr_str(IR_ATTR_precision, "bf16"));
        run_passes(&arena, &m, pass_pipeline_default);
        check_all(m);
        const Traffic by_erf = traffic_in_unit(m, 3, n_elems), by_tanh = traffic_in_unit(m, 5, n_elems);
        const int64_t matrix = n_elems * (bf16 ? 2 : 4);
        printf("%s: gelu by erf: kernels %lld, matmuls %lld bytes; by tanh: %lld, %lld\n", bf16 ? "bf16" : "f32",
               (long long)by_erf.by_kernels, (long long)by_erf.by_matmuls, (long long)by_tanh.by_kernels,
               (long long)by_tanh.by_matmuls);
        assert_true(by_erf.by_kernels >= 5 * matrix); /* x to y; x and y's gradient to x's */
        assert_int_equal(by_tanh.by_kernels, 0);
        assert_int_equal(by_tanh.by_matmuls - by_erf.by_matmuls, 2 * matrix); /* x is written, and read */
        arena_destroy(arena);
    }
}

/* ---- traps */

static IrModule *parse(Arena *arena, const char *text)
{
    Diag *diag = diag_create(arena);
    IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "trap", text, strlen(text)), text, strlen(text));
    diag_print(diag, stdout, false);
    assert_non_null(m);
    return m;
}

static const char *const traps[] = {
    /* the kernel that makes the new w also reads it transposed */
    "module \"transposed\"\nglobal param \"w\" : f32[4x4]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4x4]\n  %1 = transpose %0 {perm=[1, 0]} : f32[4x4]\n"
    "  %2 = add %0, %1 : f32[4x4]\n  set %2 {global=\"w\"}\n}\n",
    /* the old w is read after the new one is made */
    "module \"late reader\"\nglobal param \"w\" : f32[4]\nglobal param \"v\" : f32[4]\nglobal output \"y\" : f32[]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4]\n  %1 = exp %0 : f32[4] opt\n  set %1 {global=\"w\"} opt\n"
    "  %2 = reduce_sum %1 {axes=[0]} : f32[] bwd\n  %3 = broadcast %2 {dims=[]} : f32[4] bwd\n"
    "  %4 = mul %3, %0 : f32[4] bwd\n  set %4 {global=\"v\"} bwd\n  set %2 {global=\"y\"}\n}\n",
    /* the old w is copied elsewhere */
    "module \"copied\"\nglobal param \"w\" : f32[4]\nglobal param \"v\" : f32[4]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4]\n  %1 = exp %0 : f32[4]\n  set %1 {global=\"w\"}\n"
    "  set %0 {global=\"v\"}\n}\n",
    /* made before the check, kept after it */
    "module \"refused\"\nglobal param \"w\" : f32[4]\nglobal input \"x\" : f32[]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4]\n  %1 = get {global=\"x\"} : f32[]\n"
    "  %2 = mul %0, %0 : f32[4]\n  check_finite %1\n  set %2 {global=\"w\"}\n}\n",
    /* one value in two globals */
    "module \"twice\"\nglobal param \"w\" : f32[4]\nglobal param \"v\" : f32[4]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4]\n  %1 = exp %0 : f32[4]\n  set %1 {global=\"v\"}\n"
    "  set %1 {global=\"w\"}\n}\n",
    /* a matmul cannot write over what it multiplies */
    "module \"matmul\"\nglobal param \"w\" : f32[4x4]\n"
    "func step @train {\n  %0 = get {global=\"w\"} : f32[4x4]\n  %1 = matmul %0, %0 : f32[4x4]\n"
    "  set %1 {global=\"w\"}\n}\n",
    /* what came from other ranks is copied at the end, like any other value that is set */
    "module \"received\"\nglobal param \"w\" : f32[2x2]\nglobal param \"v\" : f32[2x2]\nglobal output \"y\" : "
    "f32[2x2]\n"
    "func step @train {\n  %0 = recv {peer=1, tag=0} : f32[2x2]\n  set %0 {global=\"w\"}\n"
    "  %1 = get {global=\"v\"} : f32[2x2]\n  %2 = matmul %1, %1 : f32[2x2]\n  %3 = matmul %2, %1 : f32[2x2]\n"
    "  set %3 {global=\"y\"}\n}\n",
    "module \"reduced\"\nglobal output \"x\" : f32[2x2]\nglobal param \"v\" : f32[2x2]\nglobal output \"y\" : "
    "f32[2x2]\n"
    "func step @train {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = all_reduce %1 {bucket=0} : f32[2x2]\n  wait %2 {bucket=0}\n  set %2 {global=\"x\"}\n"
    "  %3 = matmul %0, %0 : f32[2x2]\n  %4 = matmul %3, %0 : f32[2x2]\n  set %4 {global=\"y\"}\n}\n",
    /* what is added is read once more, and then by the other ranks while the next sum is made */
    "module \"reduced and read\"\nglobal output \"x\" : f32[2x2]\nglobal param \"v\" : f32[2x2]\n"
    "global output \"y\" : f32[2x2]\nglobal output \"z\" : f32[2x2]\n"
    "func step @train {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = all_reduce %1 {bucket=0} : f32[2x2]\n  %3 = matmul %1, %0 : f32[2x2]\n  %4 = matmul %3, %0 : f32[2x2]\n"
    "  %5 = all_reduce %4 {bucket=1} : f32[2x2]\n  wait %2 {bucket=0}\n  wait %5 {bucket=1}\n"
    "  set %2 {global=\"x\"}\n  set %5 {global=\"y\"}\n  set %3 {global=\"z\"}\n}\n",
    /* the sum of what is set, too: it is in no global */
    "module \"reduced and set\"\nglobal output \"x\" : f32[2x2]\nglobal param \"v\" : f32[2x2]\n"
    "global output \"y\" : f32[2x2]\n"
    "func step @train {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = all_reduce %1 {bucket=0} : f32[2x2]\n  wait %2 {bucket=0}\n  set %1 {global=\"x\"}\n"
    "  set %2 {global=\"y\"}\n}\n",
    /* the numbers of a sum that another replica gets are read there until the wait */
    "module \"another's sum\"\nglobal param \"v\" : f32[2x2]\nglobal output \"y\" : f32[2x2]\n"
    "func step @train {replicas=2} {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = reduce %1 {bucket=0, root=1} : f32[2x2]\n  %3 = matmul %0, %0 : f32[2x2]\n"
    "  %4 = matmul %3, %0 : f32[2x2]\n  %5 = reduce %4 {bucket=1, root=0} : f32[2x2]\n  wait %5 {bucket=1}\n"
    "  wait %2 {bucket=0}\n  set %5 {global=\"y\"}\n}\n",
    /* what two sums add, the second one started before the first has ended */
    "module \"added twice\"\nglobal param \"v\" : f32[2x2]\nglobal output \"y\" : f32[2x2]\n"
    "global output \"z\" : f32[2x2]\n"
    "func step @train {replicas=2} {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = all_reduce %1 {bucket=0} : f32[2x2]\n  %3 = all_reduce %1 {bucket=1} : f32[2x2]\n"
    "  wait %2 {bucket=0}\n  wait %3 {bucket=1}\n  set %2 {global=\"y\"}\n  set %3 {global=\"z\"}\n}\n",
    /* what a sum adds is added to before it has ended */
    "module \"added and added to\"\nglobal param \"v\" : f32[2x2]\nglobal output \"y\" : f32[2x2]\n"
    "global output \"z\" : f32[2x2]\n"
    "func step @train {replicas=2} {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = matmul %0, %0 : f32[2x2]\n"
    "  %2 = all_reduce %1 {bucket=0} : f32[2x2]\n  %3 = matmul %0, %0, %1 {residual=true} : f32[2x2]\n"
    "  %4 = matmul %3, %0 : f32[2x2]\n  wait %2 {bucket=0}\n  set %2 {global=\"y\"}\n  set %4 {global=\"z\"}\n}\n",
    /* a new param of this replica's own, and one of the other's, which comes into the global itself */
    "module \"new params\"\nglobal param \"v\" : f32[2x2]\nglobal param \"w\" : f32[2x2]\n"
    "global output \"y\" : f32[2x2]\n"
    "func step @train {replicas=2} {\n  %0 = get {global=\"v\"} : f32[2x2]\n  %1 = get {global=\"w\"} : f32[2x2]\n"
    "  %2 = matmul %0, %1 : f32[2x2]\n  %3 = matmul %2, %1 : f32[2x2]\n"
    "  %4 = bcast %2 {bucket=0, root=0} : f32[2x2]\n  %5 = bcast %1 {bucket=1, root=1} : f32[2x2]\n"
    "  wait %5 {bucket=1}\n  wait %4 {bucket=0}\n  set %4 {global=\"v\"}\n  set %5 {global=\"w\"}\n"
    "  set %3 {global=\"y\"}\n}\n",
};

static void test_traps(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof traps / sizeof *traps; i++)
    {
        Arena *arena = arena_create();
        IrModule *m = parse(arena, traps[i]);
        run_passes(&arena, &m, "fuse,plan_memory");
        check_all(m);
        arena_destroy(arena);
    }
}

/* Everything at offset 0: the checker must not like it. */
static void test_checker_can_fail(void **state)
{
    (void)state;
    uint32_t n_refused = 0;
    for (uint64_t seed = 1; seed <= 10; seed++)
    {
        Arena *arena = arena_create();
        PlanFacts facts;
        IrModule *m = random_module(arena, seed, N_OPS);
        run_passes(&arena, &m, "decompose,dce,fuse,plan_memory");
        IrFunc train = ir_func_find(m, "train");
        IR_FOR_OPS(m, train, op)
        {
            int64_t zeros[IR_MAX_RESULTS] = {0};
            IrOpData *data = ir_op(m, op);
            if (data->code == IR_call || data->code == IR_matmul)
                ir_attrs_put(arena, &data->attrs, ir_attr_ints(IR_ATTR_offsets, zeros, data->n_results));
        }
        n_refused += plan_check(arena, m, train, &facts) != NULL;
        arena_destroy(arena);
    }
    assert_int_equal(n_refused, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traps), cmocka_unit_test(test_random), cmocka_unit_test(test_training_step),
        cmocka_unit_test(test_activations_in_matmuls), cmocka_unit_test(test_checker_can_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
