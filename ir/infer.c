/* Result types: one function per SHAPE rule of ops.def. Each checks its operands and attributes and writes the
 * result types, or says in a sentence what does not fit. Nothing here aborts: types and attributes may come from text.
 * Here are what the rules share, those of leaves, effects and elementwise ops, and the table. */
#include "ir/infer_rules.h"

bool infer_fail(Infer *x, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    x->why = arena_vprintf(x->arena, format, args);
    va_end(args);
    return false;
}

const char *infer_text(const Infer *x, const IrType *type)
{
    return ir_type_text(x->arena, type);
}

bool infer_give(Infer *x, IrType type)
{
    x->out[x->n_out++] = type;
    return true;
}

bool infer_need_given(Infer *x)
{
    return x->given ? true : infer_fail(x, "needs a result type");
}

bool infer_want_shape(Infer *x, uint32_t i, const IrType *like)
{
    if (ir_type_same_shape(x->in[i], like))
        return true;
    return infer_fail(x, "operand %u is %s, expected the shape of %s", i + 1, infer_text(x, x->in[i]),
                      infer_text(x, like));
}

bool infer_want_type(Infer *x, uint32_t i, IrType type)
{
    if (ir_type_equal(x->in[i], &type))
        return true;
    return infer_fail(x, "operand %u is %s, expected %s", i + 1, infer_text(x, x->in[i]), infer_text(x, &type));
}

bool infer_want_float(Infer *x, uint32_t i)
{
    if (dtype_is_float((DType)x->in[i]->dtype))
        return true;
    return infer_fail(x, "operand %u is %s, expected a float type", i + 1, infer_text(x, x->in[i]));
}

const int64_t *infer_ints_attr(Infer *x, IrAttrKey key, uint32_t n, int64_t lo, int64_t hi)
{
    const IrAttr *attr = ir_attrs_find(x->attrs, key);
    if (!attr || attr->n != n)
    {
        infer_fail(x, "attribute '%s' has %u entries, expected %u", ir_attr_name(key), attr ? attr->n : 0, n);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
    {
        if (attr->ints[i] < lo || attr->ints[i] > hi)
        {
            infer_fail(x, "attribute '%s' has %lld, expected %lld to %lld", ir_attr_name(key), (long long)attr->ints[i],
                       (long long)lo, (long long)hi);
            return NULL;
        }
    }
    static const int64_t none[1];
    return n ? attr->ints : none;
}

bool infer_axis_attr(Infer *x, int rank, int *out_axis)
{
    int64_t axis = ir_attrs_int(x->attrs, IR_ATTR_axis, -1);
    if (axis < 0 || axis >= rank)
        return infer_fail(x, "axis %lld is outside 0..%d", (long long)axis, rank - 1);
    *out_axis = (int)axis;
    return true;
}

/* ---- leaves and effects */

bool infer_given(Infer *x)
{
    return infer_need_given(x) && infer_give(x, *x->given);
}

bool infer_given_global(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_global);
    IrGlobal global = name ? ir_global_find(x->m, name) : 0;
    if (!global)
        return infer_fail(x, "no global \"%s\"", name ? name : "");
    const IrType *type = &ir_global(x->m, global)->type;
    if (x->given && !ir_type_equal(x->given, type))
        return infer_fail(x, "global \"%s\" is %s, not %s", name, infer_text(x, type), infer_text(x, x->given));
    return infer_give(x, *type);
}

bool infer_set(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_global);
    IrGlobal global = name ? ir_global_find(x->m, name) : 0;
    if (!global)
        return infer_fail(x, "no global \"%s\"", name ? name : "");
    if (ir_global(x->m, global)->kind == IR_GLOBAL_INPUT)
        return infer_fail(x, "global \"%s\" is an input", name);
    return infer_want_type(x, 0, ir_global(x->m, global)->type);
}

bool infer_output(Infer *x)
{
    const IrAttr *pitch = ir_attrs_find(x->attrs, IR_ATTR_pitch);
    if (pitch && (x->in[0]->rank < 2 || pitch->i < x->in[0]->dims[x->in[0]->rank - 1]))
        return infer_fail(x, "rows of %s do not fit into a pitch of %lld", infer_text(x, x->in[0]),
                          (long long)pitch->i);
    return true;
}

bool infer_none(Infer *x)
{
    (void)x;
    return true;
}

/* One result of the type of each operand. */
bool infer_each(Infer *x)
{
    for (uint32_t i = 0; i < x->n; i++)
        if (!infer_want_type(x, i, ir_type_with_dtype(*x->in[i], DT_F32)) || !infer_give(x, *x->in[i]))
            return false;
    return true;
}

bool infer_call(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_fn);
    IrFunc fn = name ? ir_func_find(x->m, name) : 0;
    if (!fn || ir_func(x->m, fn)->kind != IR_FUNC_KERNEL)
        return infer_fail(x, "no kernel @%s", name ? name : "");
    uint32_t n_args = 0;
    IR_FOR_OPS(x->m, fn, op)
    {
        const IrOpData *data = ir_op(x->m, op);
        if (data->code == IR_arg && n_args < x->n &&
            !infer_want_type(x, n_args, *ir_value_type(x->m, data->results[0])))
            return false;
        if (data->code == IR_arg)
            n_args++;
        else if (data->code == IR_output)
        {
            if (x->n_out == IR_MAX_RESULTS)
                return infer_fail(x, "kernel @%s has more than %d outputs", name, IR_MAX_RESULTS);
            infer_give(x, *ir_value_type(x->m, data->operands[0]));
        }
    }
    return n_args == x->n ? true : infer_fail(x, "kernel @%s has %u args, the call has %u", name, n_args, x->n);
}

bool infer_given_iota(Infer *x)
{
    int axis;
    if (!infer_need_given(x) || !infer_axis_attr(x, x->given->rank, &axis))
        return false;
    if (x->given->dtype != DT_I32 && x->given->dtype != DT_F32)
        return infer_fail(x, "the result is %s, expected i32 or f32", infer_text(x, x->given));
    return infer_give(x, *x->given);
}

bool infer_want_random_operands(Infer *x, uint32_t at, int64_t n_rows)
{
    return infer_want_type(x, at, ir_type(DT_I32, 1, (const int64_t[]){2})) &&
           infer_want_type(x, at + 1, ir_type(DT_I32, 1, &n_rows));
}

bool infer_given_random(Infer *x)
{
    if (!infer_need_given(x))
        return false;
    if (x->given->dtype != DT_F32 || x->given->rank < 1)
        return infer_fail(x, "the result is %s, expected f32 with a batch axis", infer_text(x, x->given));
    return infer_want_random_operands(x, 0, x->given->dims[0]) && infer_give(x, *x->given);
}

/* ---- elementwise */

static bool all_equal(Infer *x)
{
    for (uint32_t i = 1; i < x->n; i++)
        if (!infer_want_type(x, i, *x->in[0]))
            return false;
    return true;
}

bool infer_same(Infer *x)
{
    if (x->in[0]->dtype == DT_BOOL || x->in[0]->dtype == DT_U8)
        return infer_fail(x, "operand 1 is %s, expected numbers that can be computed with (cast it)",
                          infer_text(x, x->in[0]));
    return all_equal(x) && infer_give(x, *x->in[0]);
}

bool infer_logic(Infer *x)
{
    return infer_want_type(x, 0, ir_type_with_dtype(*x->in[0], DT_BOOL)) && all_equal(x) && infer_give(x, *x->in[0]);
}

bool infer_compare(Infer *x)
{
    return all_equal(x) && infer_give(x, ir_type_with_dtype(*x->in[0], DT_BOOL));
}

bool infer_select(Infer *x)
{
    return infer_want_type(x, 0, ir_type_with_dtype(*x->in[1], DT_BOOL)) && infer_want_type(x, 2, *x->in[1]) &&
           infer_give(x, *x->in[1]);
}

bool infer_given_cast(Infer *x)
{
    return infer_need_given(x) && infer_want_shape(x, 0, x->given) && infer_give(x, *x->given);
}

/* ---- the table */

#define SHAPE(rule) infer_##rule
static InferRule *const rules[] = {
    NULL,
#define OP(name, in, out, required, optional, shape, ...) shape,
#include "ir/ops.def"
#undef OP
};
#undef SHAPE

/* Extents are at least 1 and the size in bytes stays far from overflow. */
static bool sane_type(const IrType *type)
{
    int64_t n = 1;
    for (int i = 0; i < type->rank; i++)
    {
        if (type->dims[i] < 1 || type->dims[i] > IR_MAX_ELEMS / n)
            return false;
        n *= type->dims[i];
    }
    return true;
}

static bool want_attrs(Infer *x, const IrOpInfo *info)
{
    for (const IrAttrKey *key = info->required; *key; key++)
        if (!ir_attrs_find(x->attrs, *key))
            return infer_fail(x, "attribute '%s' is missing", ir_attr_name(*key));
    for (uint32_t i = 0; i < x->attrs->len; i++)
    {
        bool known = false;
        for (const IrAttrKey *key = info->required; *key; key++)
            known = known || *key == x->attrs->data[i].key;
        for (const IrAttrKey *key = info->optional; *key; key++)
            known = known || *key == x->attrs->data[i].key;
        if (!known)
            return infer_fail(x, "has no attribute '%s'", ir_attr_name(x->attrs->data[i].key));
    }
    return true;
}

bool ir_infer(Arena *arena, const IrModule *m, IrCode code, const IrValue *operands, uint32_t n_operands,
              const IrAttrs *attrs, const IrType *given, IrType *out_types, uint32_t *out_n_types, const char **out_why)
{
    const IrOpInfo *info = ir_op_info(code);
    const IrType *few[8];
    const IrType **in = n_operands <= 8 ? few : ARENA_ARRAY(arena, const IrType *, n_operands);
    for (uint32_t i = 0; i < n_operands; i++)
        in[i] = ir_value_type(m, operands[i]);
    Infer x = {.arena = arena,
               .m = m,
               .code = code,
               .n = n_operands,
               .in = in,
               .attrs = attrs,
               .given = given,
               .out = out_types};
    bool ok = true;
    if (n_operands < info->min_operands || n_operands > info->max_operands)
        ok = infer_fail(&x, "has %u operands, expected %u%s", n_operands, info->min_operands,
                        info->max_operands > info->min_operands ? " or more" : "");
    ok = ok && want_attrs(&x, info);
    for (uint32_t i = 0; ok && (info->traits & IR_TRAIT_FLOAT) && i < n_operands; i++)
        if (info->traits & IR_TRAIT_EWISE)
            ok = infer_want_float(&x, i);
    if (ok && (info->traits & IR_TRAIT_FLOAT) && n_operands)
        ok = infer_want_float(&x, 0);
    ok = ok && rules[code](&x);
    for (uint32_t i = 0; ok && i < x.n_out; i++)
        if (!sane_type(&out_types[i]))
            ok = infer_fail(&x, "the result %s is empty or too large", infer_text(&x, &out_types[i]));
    *out_n_types = x.n_out;
    *out_why = ok ? NULL : x.why;
    return ok;
}
