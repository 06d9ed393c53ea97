/* Matching is by structure: same ops, same constants, operands of commuting ops in either order. */
#include "passes/activation.h"

#include "ir/expr.h"

#include <math.h>

enum
{
    MAX_FORMS = 32
};

typedef struct
{
    const char *name;
    IrValue x, root;
} Form;

struct ActivationForms
{
    IrModule *m;
    uint32_t n;
    Form forms[MAX_FORMS];
};

ActivationForms *activation_forms(Arena *scratch)
{
    static const struct
    {
        const char *name, *texts[4];
    } rows[] = {
#define ACTIVATION(name, u, gradient, ...) {#name, {__VA_ARGS__}},
#include "ir/activations.def"
#undef ACTIVATION
    };
    ActivationForms *all = ARENA_NEW(scratch, ActivationForms);
    all->m = ir_module_create(scratch, "activations");
    IrFunc func = ir_func_add(all->m, IR_FUNC_KERNEL, "forms");
    IrBuilder b = ir_builder(all->m, func);
    const IrType type = ir_type_scalar(DT_F32);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    {
        for (size_t k = 0; k < sizeof rows[i].texts / sizeof rows[i].texts[0] && rows[i].texts[k]; k++)
        {
            IrExprVar x = {"x", ir_build_op(&b, IR_arg, &type, NULL, 0, NULL, 0)};
            all->forms[all->n++] = (Form){rows[i].name, x.value, ir_build_expr(&b, rows[i].texts[k], &x, 1)};
        }
    }
    return all;
}

typedef struct
{
    const IrModule *m, *form_m;
    const IrUses *uses; /* NULL: shared with others or not */
    IrValue form_x;
    IrValue x; /* 0: not met yet */
    uint32_t n_reads;
} Match;

static bool match(Match *a, IrValue value, IrValue form, bool is_root)
{
    if (form == a->form_x)
    {
        a->n_reads++;
        if (!a->x)
            a->x = value;
        return a->x == value;
    }
    const IrOpData *op = ir_op(a->m, ir_value(a->m, value)->def);
    const IrOpData *want = ir_op(a->form_m, ir_value(a->form_m, form)->def);
    if (op->code != want->code || op->n_operands != want->n_operands)
        return false;
    if (op->code == IR_const)
    {
        double have = ir_attrs_float(&op->attrs, IR_ATTR_value, 0),
               number = ir_attrs_float(&want->attrs, IR_ATTR_value, 0);
        return fabs(have - number) <= 1e-7 * fabs(number); /* as f32 they are the same */
    }
    if (!is_root && a->uses && ir_uses_count(a->uses, value) != 1)
        return false;
    const Match before = *a;
    bool same = true;
    for (uint32_t i = 0; same && i < op->n_operands; i++)
        same = match(a, op->operands[i], want->operands[i], false);
    if (same || !ir_code_has(op->code, IR_TRAIT_COMMUTES))
        return same;
    *a = before;
    return match(a, op->operands[1], want->operands[0], false) && match(a, op->operands[0], want->operands[1], false);
}

const char *activation_match(const ActivationForms *forms, const IrModule *m, const IrUses *uses, IrValue root,
                             IrValue *out_x, uint32_t *out_n_reads)
{
    for (uint32_t i = 0; i < forms->n; i++)
    {
        Match a = {.m = m, .form_m = forms->m, .uses = uses, .form_x = forms->forms[i].x};
        if (ir_value_code(m, root) == ir_value_code(forms->m, forms->forms[i].root) &&
            match(&a, root, forms->forms[i].root, true))
        {
            *out_x = a.x;
            *out_n_reads = a.n_reads;
            return forms->forms[i].name;
        }
    }
    return NULL;
}
