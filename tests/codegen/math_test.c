/* Accuracy of the elementary functions of generated C kernels, against the libm in f64, over dense random arguments and
 * special values. Bounds in units in the last place of the result; the largest error seen is printed. */
#include "harness/test.h"

#include "codegen/codegen.h"
#include "codegen/compile.h"
#include "codegen/kernel_abi.h"
#include "ir/builder.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>

enum
{
    N_VALUES = 1 << 18
};

typedef double Reference(double x);

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double rsqrt(double x)
{
    return 1 / sqrt(x);
}

typedef struct
{
    IrCode code;
    Reference *reference;
    double lo, hi;
    bool exponential; /* arguments uniform in the exponent, of both signs when lo < 0 */
    double max_ulp;
} MathCase;

static const MathCase cases[] = {
    {IR_exp, exp, -87, 88.7, false, 1.0},     {IR_exp, exp, -1e-3, 1e-3, true, 1.0},
    {IR_log, log, 1e-38, 1e38, true, 1.0},    {IR_log, log, 0.5, 2, false, 1.5},
    {IR_tanh, tanh, -10, 10, false, 3.0},     {IR_tanh, tanh, -1, 1, true, 3.0},
    {IR_erf, erf, -5, 5, false, 3.0},         {IR_erf, erf, -1, 1, true, 3.0},
    {IR_sigmoid, sigmoid, -80, 80, false, 3}, {IR_rsqrt, rsqrt, 1e-30, 1e30, true, 1.5},
    {IR_sin, sin, -3.1, 3.1, false, 2.0},     {IR_cos, cos, -1.5, 1.5, false, 2.0},
    {IR_sqrt, sqrt, 1e-30, 1e30, true, 0.51},
};

/* Sine and cosine near their zeros far out lose relative, not absolute, accuracy. */
static const MathCase absolute_cases[] = {{IR_sin, sin, -1e4, 1e4, false, 2.0}, {IR_cos, cos, -1e4, 1e4, false, 2.0}};

static const float specials[] = {0.0f,    -0.0f, INFINITY, -INFINITY, NAN,    1e-45f,
                                 -1e-45f, 1e38f, -1e38f,   200.0f,    -200.0f};

static float random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) * 0x1p-24f;
}

static double ulp_of(double x)
{
    float f = fabsf((float)x);
    if (f < 1.17549435e-38f)
        f = 1.17549435e-38f;
    return (double)(nextafterf(f, INFINITY) - f);
}

static PtcTaskFn *compile_op(Arena *arena, IrCode code)
{
    IrModule *m = ir_module_create(arena, "math");
    IrFunc func = ir_func_add(m, IR_FUNC_KERNEL, "k");
    IrBuilder b = ir_builder(m, func);
    const int64_t n = 32768;
    IrType type = ir_type(DT_F32, 1, &n);
    IrValue x = ir_build_op(&b, IR_arg, &type, NULL, 0, NULL, 0);
    IrValue y = ir_build1(&b, code, x);
    ir_build_op(&b, IR_output, NULL, &y, 1, NULL, 0);
    StrBuf text = strbuf_make(arena);
    CodegenObject object;
    codegen_emit_c(&text, m);
    if (codegen_compile(arena, strbuf_text(&text), &object) != STATUS_OK)
        fail_msg("%s", status_detail());
    void *handle = dlopen(object.so_path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(handle);
    return ((const PtcKernelTable *)dlsym(handle, PTC_KERNEL_SYMBOL))->kernels[0].phase[0].run;
}

static void call(PtcTaskFn *run, float *x, float *y)
{
    void *bufs[] = {x, y, (uint32_t[]){0}};
    run(bufs, NULL, NULL, 0);
}

static float x[32768], y[32768];

static double worst(Arena *arena, const MathCase *c, bool absolute)
{
    uint64_t state = 7;
    double worst_ulp = 0;
    PtcTaskFn *run = compile_op(arena, c->code);
    for (int block = 0; block < N_VALUES / 32768; block++)
    {
        for (int i = 0; i < 32768; i++)
        {
            float u = random_unit(&state);
            double lo = c->lo > 0 ? log(c->lo) : log(1e-30);
            x[i] = c->exponential ? (float)exp(lo + (log(c->hi) - lo) * (double)u)
                                  : (float)(c->lo + (c->hi - c->lo) * (double)u);
            if (c->exponential && c->lo < 0 && i % 2)
                x[i] = -x[i];
        }
        call(run, x, y);
        for (int i = 0; i < 32768; i++)
        {
            double want = c->reference((double)x[i]);
            double error = fabs((double)y[i] - want) / ulp_of(absolute ? 1 : want);
            if (!(error <= worst_ulp))
                worst_ulp = isnan(error) ? INFINITY : error;
        }
    }
    return worst_ulp;
}

static void errors_are_within_bounds(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    bool good = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases + 2; i++)
    {
        const size_t n = sizeof cases / sizeof *cases;
        const MathCase *c = i < n ? &cases[i] : &absolute_cases[i - n];
        double ulp = worst(arena, c, i >= n);
        printf("%-8s [%g, %g]: %.2f ulp, at most %.2f\n", ir_op_info(c->code)->name, c->lo, c->hi, ulp, c->max_ulp);
        good &= ulp <= c->max_ulp;
    }
    arena_destroy(arena);
    assert_true(good);
}

static void special_values(void **state)
{
    (void)state;
    static const struct
    {
        IrCode code;
        Reference *reference;
    } functions[] = {{IR_exp, exp}, {IR_log, log}, {IR_tanh, tanh}, {IR_erf, erf}, {IR_sigmoid, sigmoid}};
    Arena *arena = arena_create();
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
    {
        memset(x, 0, sizeof x);
        memcpy(x, specials, sizeof specials);
        call(compile_op(arena, functions[f].code), x, y);
        for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        {
            float want = (float)functions[f].reference((double)x[i]);
            bool same = isnan(want)                ? isnan(y[i])
                        : isinf(want) || want == 0 ? y[i] == want
                                                   : fabs((double)y[i] - (double)want) <= 3 * ulp_of((double)want);
            if (!same)
                fail_msg("%s(%g) = %g, expected %g", ir_op_info(functions[f].code)->name, (double)x[i], (double)y[i],
                         (double)want);
        }
    }
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_are_within_bounds), cmocka_unit_test(special_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
