/* What cuBLASLt's epilogue does not do, as a KERNEL function that the code generator makes a kernel of. */
#include "runtime/hal_cuda_gemm.h"

#include "ir/expr.h"

enum
{
    WORKSPACE_ALIGNMENT = 256
};

typedef struct
{
    const char *form;         /* of the activation, in x */
    const char *u, *gradient; /* ir/activations.def */
} Forms;

static const Forms FORMS[GEMM_ACT_COUNT] = {
    [GEMM_ACT_none] = {"x", "x", "g"},
#define FIRST(form, ...)                   form
#define ACTIVATION(name, u, gradient, ...) [GEMM_ACT_##name] = {FIRST(__VA_ARGS__, ), u, gradient},
#include "ir/activations.def"
#undef ACTIVATION
#undef FIRST
};

static bool has_second(const GemmDesc *desc)
{
    return desc->residual || desc->accumulate || desc->dact != GEMM_ACT_none;
}

static IrValue add_arg(IrBuilder *b, DType dtype, int rank, const int64_t *dims)
{
    const IrType type = ir_type(dtype, rank, dims);
    return ir_build_op(b, IR_arg, &type, NULL, 0, NULL, 0);
}

/* act(product), act(product) + residual, product act'(aux): flat. */
static IrValue build_elementwise(IrBuilder *b, const GemmDesc *desc)
{
    const int64_t n = desc->batch * desc->m * desc->n;
    const DType dtype = desc->dtype_c == GEMM_BF16 ? DT_BF16 : DT_F32;
    const IrValue product = ir_build_cast(b, add_arg(b, dtype, 1, &n), DT_F32);
    const IrValue second = has_second(desc) ? ir_build_cast(b, add_arg(b, dtype, 1, &n), DT_F32) : 0;
    IrExprVar vars[3] = {{"x", product}};
    if (desc->dact == GEMM_ACT_none)
    {
        const IrValue value = ir_build_expr(b, FORMS[desc->act].form, vars, 1);
        return ir_build_cast(b, second ? ir_build2(b, IR_add, value, second) : value, dtype);
    }
    vars[0] = (IrExprVar){"x", second};
    vars[1] = (IrExprVar){"g", product};
    vars[2] = (IrExprVar){"u", ir_build_expr(b, FORMS[desc->dact].u, vars, 1)};
    return ir_build_cast(b, ir_build_expr(b, FORMS[desc->dact].gradient, vars, 3), dtype);
}

static IrValue build_sums(IrBuilder *b, const GemmDesc *desc)
{
    const int64_t dims[] = {desc->k, desc->n}, rows = 0;
    const IrValue x = add_arg(b, desc->dtype_ab == GEMM_BF16 ? DT_BF16 : DT_F32, 2, dims);
    return ir_build_reduce(b, IR_reduce_sum, ir_build_cast(b, x, DT_F32), &rows, 1);
}

static const IrModule *finish_module(Arena *arena, const GemmDesc *desc)
{
    IrModule *m = ir_module_create(arena, "epilogue");
    IrBuilder b = ir_builder(m, ir_func_add(m, IR_FUNC_KERNEL, "finish"));
    const IrValue value = desc->sums ? build_sums(&b, desc) : build_elementwise(&b, desc);
    ir_build_op(&b, IR_output, NULL, &value, 1, NULL, 0);
    return m;
}

static size_t align_up(size_t size_bytes)
{
    return (size_bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

Status cuda_gemm_prepare_finish(CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *desc = &gemm->desc;
    Arena *arena = arena_create();
    HalKernelFile file;
    const IrModule *m = finish_module(arena, desc);
    Status status = cuda_kernels_build(arena, device->index, &m, 1, 1, &file);
    if (status == STATUS_OK)
        status = hal_executable_load(&device->base, file.path, &gemm->executable);
    if (status == STATUS_OK)
        status = hal_executable_kernel(gemm->executable, "finish", &gemm->finish);
    if (!desc->sums && (desc->residual || desc->accumulate))
        gemm->product_bytes =
            align_up((size_t)(desc->batch * desc->m * desc->n) * (desc->dtype_c == GEMM_BF16 ? 2 : sizeof(float)));
    arena_destroy(arena);
    return status;
}
