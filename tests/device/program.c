/* See program.h. */
#include "program.h"

#include "base/bug.h"
#include "base/diag.h"
#include "codegen/codegen.h"
#include "harness/test.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/manager.h"

#include <stdlib.h>
#include <string.h>

static void append_op(IrModule *into, IrFunc func, const IrModule *from, IrOp op, const char *prefix, IrValue *map)
{
    const IrOpData *data = ir_op(from, op);
    IrValue *operands = ARENA_ARRAY(into->arena, IrValue, data->n_operands);
    IrType types[IR_MAX_RESULTS];
    IrAttr attrs[IR_ATTR_COUNT];
    for (uint32_t i = 0; i < data->n_operands; i++)
        operands[i] = map[data->operands[i]];
    for (uint32_t i = 0; i < data->n_results; i++)
        types[i] = *ir_value_type(from, data->results[i]);
    for (uint32_t i = 0; i < data->attrs.len; i++)
    {
        attrs[i] = data->attrs.data[i];
        if (attrs[i].key == IR_ATTR_global)
            attrs[i].s = arena_printf(into->arena, "%s%s", prefix, attrs[i].s);
    }
    IrOp copy = ir_op_insert(into, func, 0, data->code, operands, data->n_operands, types, data->n_results, attrs,
                             data->attrs.len);
    ir_op(into, copy)->phase = data->phase;
    ir_op(into, copy)->unit = data->unit;
    for (uint32_t i = 0; i < data->n_results; i++)
        map[data->results[i]] = ir_op_result(into, copy, i);
}

void device_module_append(IrModule *into, const IrModule *from, const char *prefix)
{
    for (IrGlobal g = 1; g < from->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(from, g);
        ir_global_add(into, global->kind, arena_printf(into->arena, "%s%s", prefix, global->name), global->type,
                      global->attrs.data, global->attrs.len, (Span){0});
    }
    IR_FOR_FUNCS(from, func)
    {
        IrValue *map = ARENA_ARRAY(into->arena, IrValue, from->values.len);
        IrFunc copy =
            ir_func_add(into, IR_FUNC_STEP, arena_printf(into->arena, "%s%s", prefix, ir_func(from, func)->name));
        IR_FOR_OPS(from, func, op)
        append_op(into, copy, from, op, prefix, map);
    }
}

DeviceProgram device_program_build(Arena *arena, const IrModule *m, const char *passes)
{
    DeviceProgram program = {.before = m, .m_arena = arena_create()};
    program.m = ir_module_clone(program.m_arena, m);
    Diag *diag = diag_create(arena);
    PassOptions options = {.verify_each = true};
    const char *why;
    if (!ir_verify(arena, m, &why))
        fail_msg("%s: %s", m->name, why);
    Status status = pass_manager_run(&program.m_arena, &program.m, diag, passes, &options);
    diag_print(diag, stdout, false);
    assert_int_equal(status, STATUS_OK);
    IR_FOR_FUNCS(program.m, func)
    if (ir_func(program.m, func)->kind == IR_FUNC_KERNEL && !codegen_kernel_supported(arena, program.m, func, &why))
    {
        StrBuf kernel = strbuf_make(arena);
        ir_print_func(&kernel, program.m, func);
        fail_msg("%s: %s\n%s", m->name, why, strbuf_text(&kernel));
    }
    return program;
}

void device_program_destroy(DeviceProgram *program)
{
    arena_destroy(program->m_arena);
}

HalDevice *device_open(const char *backend, int n_threads)
{
    HalDevice *device = NULL;
    HalOptions options = {.n_threads = n_threads};
    Status status = hal_device_create(backend, &options, &device);
    if ((status == STATUS_DEVICE || status == STATUS_UNSUPPORTED) && !getenv("REQUIRE_CUDA"))
        TEST_SKIP("device %s: %s", backend, status_detail());
    assert_int_equal(status, STATUS_OK);
    return device;
}

Executor *device_executor(HalDevice *device, const DeviceProgram *program)
{
    return device_executor_from(device, program, NULL);
}

Executor *device_executor_from(HalDevice *device, const DeviceProgram *program, ExecutorTensors *from)
{
    Executor *executor = NULL;
    const IrModule *m = program->m;
    HalKernelFile kernels;
    Arena *arena = arena_create();
    if (hal_kernels_build(arena, hal_device_name(device), &m, 1, 1, &kernels) != STATUS_OK)
        fail_msg("%s: %s", m->name, status_detail());
    const ExecutorModule module = {.m = m, .kernels_path = kernels.path};
    if (executor_create(device, &module, 1, NULL, from, &executor) != STATUS_OK)
        fail_msg("%s", status_detail());
    arena_destroy(arena);
    return executor;
}

/* ---- globals */

static double load(DType dtype, const void *at, int64_t i)
{
    uint32_t bits;
    float f;
    switch (dtype)
    {
    case DT_F32:
        return (double)((const float *)at)[i];
    case DT_I32:
        return ((const int32_t *)at)[i];
    case DT_BF16:
        bits = (uint32_t)((const uint16_t *)at)[i] << 16;
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    default:
        return ((const uint8_t *)at)[i];
    }
}

/* value is exact in dtype, or f32 */
static void store(DType dtype, void *at, int64_t i, double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (dtype == DT_F32)
        ((float *)at)[i] = f;
    else if (dtype == DT_I32)
        ((int32_t *)at)[i] = (int32_t)value;
    else if (dtype == DT_BF16)
        ((uint16_t *)at)[i] = (uint16_t)(bits >> 16);
    else
        ((uint8_t *)at)[i] = (uint8_t)value;
}

void device_write_global(Executor *executor, const IrModule *m, IrGlobal global, const double *values)
{
    const IrGlobalData *data = ir_global(m, global);
    if (!executor_has_global(executor, data->name))
        return; /* nobody reads it */
    Arena *arena = arena_create();
    void *bytes = arena_alloc(arena, (size_t)ir_type_size_bytes(&data->type));
    for (int64_t i = 0; i < ir_type_n_elems(&data->type); i++)
        store((DType)data->type.dtype, bytes, i, values[i]);
    assert_int_equal(executor_write_global(executor, data->name, bytes), STATUS_OK);
    arena_destroy(arena);
}

void device_read_global(Executor *executor, const IrModule *m, IrGlobal global, double *out_values)
{
    const IrGlobalData *data = ir_global(m, global);
    Arena *arena = arena_create();
    void *bytes = arena_alloc(arena, (size_t)ir_type_size_bytes(&data->type));
    assert_int_equal(executor_read_global(executor, data->name, bytes), STATUS_OK);
    for (int64_t i = 0; i < ir_type_n_elems(&data->type); i++)
        out_values[i] = load((DType)data->type.dtype, bytes, i);
    arena_destroy(arena);
}
