/* One inline function per elementwise op and register type in use. */
#include "codegen/scalar.h"

#include "codegen/scalar_ops.h"

static void print_op(StrBuf *out, IrCode code, bool is_float)
{
    const IrOpInfo *info = ir_op_info(code);
    const char *type = is_float ? "float" : "int32_t";
    const bool is_logic = code == IR_not || code == IR_and || code == IR_or || code == IR_eq || code == IR_ne ||
                          code == IR_lt || code == IR_le || code == IR_gt || code == IR_ge;
    strbuf_addf(out, "PTC_INLINE %s op_%s_%c(", is_logic ? "int32_t" : type, info->name, is_float ? 'f' : 'i');
    for (uint32_t i = 0; i < info->max_operands; i++)
        strbuf_addf(out, "%s%s %c", i ? ", " : "", code == IR_select && i == 0 ? "int32_t" : type, (char)('a' + i));
    strbuf_addf(out, ")\n{\n    return %s;\n}\n", scalar_op_text(code));
}

void scalar_print_ops(StrBuf *out, const IrModule *m)
{
    bool used[2][IR_CODE_COUNT] = {{false}};
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL)
            continue;
        IR_FOR_OPS(m, func, op)
        {
            const IrOpData *data = ir_op(m, op);
            if (!scalar_op_text(data->code) || data->code == IR_cast)
                continue;
            DType dtype = (DType)ir_value_type(m, data->operands[data->n_operands - 1])->dtype;
            used[dtype_is_float(dtype)][data->code] = true;
        }
    }
    for (IrCode code = 1; code < IR_CODE_COUNT; code++)
        if (used[1][code])
            print_op(out, code, true);
    strbuf_add(out, "#undef ABS\n#define ABS(a) ((a) < 0 ? -(a) : (a))\n");
    for (IrCode code = 1; code < IR_CODE_COUNT; code++)
        if (used[0][code])
            print_op(out, code, false);
}
