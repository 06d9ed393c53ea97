/* einsum as matmul. Letters fall into classes: batch (in both operands and the result), rows (first and result), cols
 * (second and result), depth (both operands, summed). A matmul wants each operand as batch, then its two classes in
 * either order, and gives batch, rows, cols. Which order the letters take within the classes is free as long as all
 * three agree, and the operands may change places: all few choices are tried, and the one that transposes the fewest
 * elements is taken. */
#include "passes/einsum.h"

#include "base/bug.h"

#include <string.h>

enum
{
    N_LETTERS = 26,
    MAX_LETTERS = 2 * IR_MAX_RANK
};

/* A string of letters. */
typedef struct
{
    int n;
    char at[MAX_LETTERS + 1];
} Letters;

typedef struct
{
    IrBuilder *b;
    DType dtype; /* of the result */
    int64_t extents[N_LETTERS];
} Lowering;

static Letters letters_make(const char *text, size_t n)
{
    Letters letters = {.n = (int)n};
    ENSURE(n <= MAX_LETTERS);
    memcpy(letters.at, text, n);
    return letters;
}

static bool letters_have(const Letters *letters, char letter)
{
    return memchr(letters->at, letter, (size_t)letters->n) != NULL;
}

static bool letters_equal(const Letters *a, const Letters *b)
{
    return a->n == b->n && memcmp(a->at, b->at, (size_t)a->n) == 0;
}

/* Those of `order` that are in `with` and in (or, when !in_without, not in) `without`. */
static Letters letters_pick(const Letters *order, const Letters *with, const Letters *other, bool in_other)
{
    Letters picked = {0};
    for (int i = 0; i < order->n; i++)
        if (letters_have(with, order->at[i]) && letters_have(other, order->at[i]) == in_other)
            picked.at[picked.n++] = order->at[i];
    return picked;
}

static Letters letters_join(Letters a, const Letters *b, const Letters *c)
{
    memcpy(a.at + a.n, b->at, (size_t)b->n);
    a.n += b->n;
    memcpy(a.at + a.n, c->at, (size_t)c->n);
    a.n += c->n;
    return a;
}

static int64_t extent_product(const Lowering *low, const Letters *letters)
{
    int64_t n = 1;
    for (int i = 0; i < letters->n; i++)
        n *= low->extents[letters->at[i] - 'a'];
    return n;
}

static IrType type_of(const Lowering *low, DType dtype, const Letters *letters)
{
    IrType type = {.dtype = (uint8_t)dtype, .rank = (uint8_t)letters->n};
    ENSURE(letters->n <= IR_MAX_RANK);
    for (int i = 0; i < letters->n; i++)
        type.dims[i] = low->extents[letters->at[i] - 'a'];
    return type;
}

static IrValue reorder(const Lowering *low, IrValue v, const Letters *from, const Letters *to)
{
    int64_t perm[IR_MAX_RANK];
    for (int i = 0; i < to->n; i++)
        perm[i] = (const char *)memchr(from->at, to->at[i], (size_t)from->n) - from->at;
    return ir_build_transpose(low->b, v, perm);
}

/* One operand, its letters shrinking as they are summed away. */
typedef struct
{
    IrValue value;
    Letters letters;
} Side;

/* Sums over the letters that neither the other operand nor the result has. */
static void sum_lonely(const Lowering *low, Side *side, const Letters *other, const Letters *result)
{
    int64_t axes[IR_MAX_RANK];
    uint32_t n = 0;
    Letters kept = {0};
    for (int i = 0; i < side->letters.n; i++)
    {
        char letter = side->letters.at[i];
        if (letters_have(other, letter) || letters_have(result, letter))
            kept.at[kept.n++] = letter;
        else
            axes[n++] = i;
    }
    side->value = ir_build_reduce(low->b, IR_reduce_sum, side->value, axes, n);
    side->letters = kept;
}

/* The operand with the axes `to`, of which it has some: reordered, then repeated along the others. */
static IrValue repeat_to(const Lowering *low, const Side *side, const Letters *to)
{
    Letters own = {0};
    int64_t dims[IR_MAX_RANK];
    for (int i = 0; i < to->n; i++)
        if (letters_have(&side->letters, to->at[i]))
        {
            dims[own.n] = i;
            own.at[own.n++] = to->at[i];
        }
    IrValue ordered = reorder(low, side->value, &side->letters, &own);
    DType dtype = (DType)ir_value_type(low->b->m, ordered)->dtype;
    return ir_build_broadcast(low->b, ordered, type_of(low, dtype, to), dims);
}

/* x y summed over depth, elementwise. The axes are those of the larger operand, with the missing ones in front, so that
 * as little as possible is transposed. */
static IrValue product_and_sum(const Lowering *low, const Side *x, const Side *y, const Letters *result,
                               const Letters *depth)
{
    if (depth->n == 0)
        return ir_build2(low->b, IR_mul, repeat_to(low, x, result), repeat_to(low, y, result));
    const Side *large = extent_product(low, &y->letters) > extent_product(low, &x->letters) ? y : x;
    const Side *small = large == x ? y : x;
    Letters none = {0};
    Letters full = letters_pick(&small->letters, &small->letters, &large->letters, false);
    full = letters_join(full, &large->letters, &none);
    IrValue product = ir_build2(low->b, IR_mul, repeat_to(low, x, &full), repeat_to(low, y, &full));
    int64_t axes[IR_MAX_RANK];
    uint32_t n = 0;
    Letters left = {0};
    for (int i = 0; i < full.n; i++)
    {
        if (letters_have(depth, full.at[i]))
            axes[n++] = i;
        else
            left.at[left.n++] = full.at[i];
    }
    return reorder(low, ir_build_reduce(low->b, IR_reduce_sum, product, axes, n), &left, result);
}

/* ---- matmul */

typedef struct
{
    bool swapped; /* the second operand goes first */
    bool ta, tb;
    Letters first, second, result; /* in matmul's order */
    Letters batch, rows, cols, depth;
    int64_t cost; /* elements transposed */
} Layout;

/* The cost of bringing `have` to batch + one of the two orders of its classes; picks the cheaper, plain on a tie. */
static int64_t side_cost(const Lowering *low, const Letters *have, const Letters *plain, const Letters *flipped,
                         bool *out_flip)
{
    *out_flip = !letters_equal(have, plain) && letters_equal(have, flipped);
    return *out_flip || letters_equal(have, plain) ? 0 : extent_product(low, have);
}

static Layout best_layout(const Lowering *low, const Letters *x, const Letters *y, const Letters *result)
{
    Layout best = {.cost = -1};
    for (unsigned choice = 0; choice < 64; choice++)
    {
        Layout layout = {.swapped = choice & 1};
        const Letters *p = layout.swapped ? y : x, *q = layout.swapped ? x : y;
        const Letters *batch_order = choice & 2 ? p : choice & 4 ? q : result;
        Letters shared = letters_pick(batch_order, p, q, true);
        layout.batch = letters_pick(&shared, &shared, result, true);
        layout.rows = letters_pick(choice & 8 ? p : result, p, q, false);
        layout.rows = letters_pick(&layout.rows, &layout.rows, result, true);
        layout.cols = letters_pick(choice & 16 ? q : result, q, p, false);
        layout.cols = letters_pick(&layout.cols, &layout.cols, result, true);
        layout.depth = letters_pick(choice & 32 ? p : q, p, q, true);
        layout.depth = letters_pick(&layout.depth, &layout.depth, result, false);
        Letters first_flipped = letters_join(layout.batch, &layout.depth, &layout.rows);
        Letters second_flipped = letters_join(layout.batch, &layout.cols, &layout.depth);
        layout.first = letters_join(layout.batch, &layout.rows, &layout.depth);
        layout.second = letters_join(layout.batch, &layout.depth, &layout.cols);
        layout.result = letters_join(layout.batch, &layout.rows, &layout.cols);
        layout.cost = side_cost(low, p, &layout.first, &first_flipped, &layout.ta) +
                      side_cost(low, q, &layout.second, &second_flipped, &layout.tb) +
                      (letters_equal(result, &layout.result) ? 0 : extent_product(low, result));
        if (layout.ta)
            layout.first = first_flipped;
        if (layout.tb)
            layout.second = second_flipped;
        if (best.cost < 0 || layout.cost < best.cost)
            best = layout;
    }
    return best;
}

/* The operand as [batch, m, n] or, without batch letters, [m, n]. */
static IrValue as_matrices(const Lowering *low, const Side *side, const Letters *order, const Layout *layout,
                           const Letters *m, const Letters *n)
{
    IrValue ordered = reorder(low, side->value, &side->letters, order);
    IrType type = {.dtype = ir_value_type(low->b->m, ordered)->dtype};
    if (layout->batch.n)
        type.dims[type.rank++] = extent_product(low, &layout->batch);
    type.dims[type.rank++] = extent_product(low, m);
    type.dims[type.rank++] = extent_product(low, n);
    return ir_build_reshape(low->b, ordered, type);
}

static IrValue multiply(const Lowering *low, const Side *x, const Side *y, const Letters *result)
{
    Layout layout = best_layout(low, &x->letters, &y->letters, result);
    const Letters *rows = &layout.rows, *cols = &layout.cols, *depth = &layout.depth;
    const Side *first = layout.swapped ? y : x, *second = layout.swapped ? x : y;
    IrValue operands[2] = {
        as_matrices(low, first, &layout.first, &layout, layout.ta ? depth : rows, layout.ta ? rows : depth),
        as_matrices(low, second, &layout.second, &layout, layout.tb ? cols : depth, layout.tb ? depth : cols)};
    IrAttr attrs[] = {ir_attr_bool(IR_ATTR_ta, layout.ta), ir_attr_bool(IR_ATTR_tb, layout.tb)};
    const IrType type = ir_type_scalar(low->dtype); /* inferred but for the dtype */
    IrValue product = ir_build_op(low->b, IR_matmul, &type, operands, 2, attrs, 2);
    product = ir_build_reshape(low->b, product, type_of(low, low->dtype, &layout.result));
    return reorder(low, product, &layout.result, result);
}

typedef struct
{
    Letters x, y, result;
} Expr;

static Expr split(const char *expr)
{
    const char *comma = strchr(expr, ','), *arrow = strstr(expr, "->");
    return (Expr){.x = letters_make(expr, (size_t)(comma - expr)),
                  .y = letters_make(comma + 1, (size_t)(arrow - comma - 1)),
                  .result = letters_make(arrow + 2, strlen(arrow + 2))};
}

/* Something is summed, and each operand has a letter of its own; what is lonely is out of it. */
static bool multiplies(const Expr *e, Letters *out_depth)
{
    Letters shared = letters_pick(&e->x, &e->x, &e->y, true);
    *out_depth = letters_pick(&shared, &shared, &e->result, false);
    bool x_alone = letters_pick(&e->result, &e->x, &e->y, false).n > 0;
    bool y_alone = letters_pick(&e->result, &e->y, &e->x, false).n > 0;
    return out_depth->n > 0 && x_alone && y_alone;
}

static bool has_lonely(const Letters *side, const Letters *other, const Letters *result)
{
    Letters alone = letters_pick(side, side, other, false);
    return letters_pick(&alone, &alone, result, false).n > 0;
}

bool einsum_is_matmul(const char *expr)
{
    const Expr e = split(expr);
    Letters depth;
    return multiplies(&e, &depth) && !has_lonely(&e.x, &e.y, &e.result) && !has_lonely(&e.y, &e.x, &e.result);
}

IrValue einsum_lower(IrBuilder *b, IrValue x, IrValue y, const char *expr, DType dtype)
{
    Expr e = split(expr);
    Lowering low = {.b = b, .dtype = dtype};
    Side sides[2] = {{x, e.x}, {y, e.y}};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < sides[k].letters.n; i++)
            low.extents[sides[k].letters.at[i] - 'a'] = ir_value_type(b->m, sides[k].value)->dims[i];
    sum_lonely(&low, &sides[0], &sides[1].letters, &e.result);
    sum_lonely(&low, &sides[1], &sides[0].letters, &e.result);
    e.x = sides[0].letters;
    e.y = sides[1].letters;
    Letters depth;
    if (multiplies(&e, &depth))
        return multiply(&low, &sides[0], &sides[1], &e.result);
    return product_and_sum(&low, &sides[0], &sides[1], &e.result, &depth);
}
