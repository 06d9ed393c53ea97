/* Interpreter rules: contractions, composites, attention, each by its definition in docs/ir.md. */
#include "base/bug.h"
#include "ir/interp_rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void interp_gemm(int64_t n_rows, int64_t n_cols, int64_t depth, const double *a, const double *b, double *c)
{
    for (int64_t m = 0; m < n_rows; m++)
    {
        double *restrict row = c + m * n_cols;
        memset(row, 0, sizeof *row * (size_t)n_cols);
        for (int64_t k = 0; k < depth; k++)
        {
            const double factor = a[m * depth + k], *restrict from = b + k * n_cols;
            for (int64_t n = 0; n < n_cols; n++)
                row[n] += factor * from[n];
        }
    }
}

/* ---- einsum */

enum
{
    N_LETTERS = 26
};

typedef struct
{
    const char *letters;
    int n;
    int64_t strides[N_LETTERS]; /* by letter; 0 when the operand does not have it */
} EinsumSide;

static EinsumSide einsum_side(const char *letters, int n, const IrType *type, int64_t *extents)
{
    EinsumSide side = {.letters = letters, .n = n};
    int64_t strides[IR_MAX_RANK];
    interp_strides(type, strides);
    for (int i = 0; i < n; i++)
    {
        side.strides[letters[i] - 'a'] = strides[i];
        extents[letters[i] - 'a'] = type->dims[i];
    }
    return side;
}

static bool has_letter(const EinsumSide *side, char letter)
{
    return memchr(side->letters, letter, (size_t)side->n) != NULL;
}

/* A loop over the letters of one class; innermost last. */
typedef struct
{
    int n;
    char letters[2 * IR_MAX_RANK];
    int64_t size;
} LetterClass;

static void class_add(LetterClass *class, char letter, const int64_t *extents)
{
    class->letters[class->n++] = letter;
    class->size *= extents[letter - 'a'];
}

/* The side's elements in the order of the given classes (axes it lacks are not expected), as one dense block. */
static double *gather_side(Arena *scratch, const EinsumSide *side, const double *src, const LetterClass *const *classes,
                           int n_classes, const int64_t *extents)
{
    int64_t dims[3 * IR_MAX_RANK], from[3 * IR_MAX_RANK], to[3 * IR_MAX_RANK], size = 1;
    int rank = 0;
    for (int i = 0; i < n_classes; i++)
        for (int k = 0; k < classes[i]->n; k++, rank++)
        {
            dims[rank] = extents[classes[i]->letters[k] - 'a'];
            from[rank] = side->strides[classes[i]->letters[k] - 'a'];
        }
    for (int i = rank - 1; i >= 0; i--)
    {
        to[i] = size;
        size *= dims[i];
    }
    double *dense = ARENA_ARRAY(scratch, double, size);
    interp_copy_strided(rank, dims, src, from, dense, to);
    return dense;
}

/* Sums away the letters that only this side has; its letters become those that are left. */
static const double *sum_lonely(Arena *scratch, EinsumSide *side, const double *src, const EinsumSide *other,
                                const EinsumSide *result, const int64_t *extents)
{
    LetterClass kept = {.size = 1}, lonely = {.size = 1};
    for (int i = 0; i < side->n; i++)
    {
        char letter = side->letters[i];
        bool stays = has_letter(other, letter) || has_letter(result, letter);
        class_add(stays ? &kept : &lonely, letter, extents);
    }
    if (lonely.n == 0)
        return src;
    double *dense = gather_side(scratch, side, src, (const LetterClass *const[]){&kept, &lonely}, 2, extents);
    double *sums = ARENA_ARRAY(scratch, double, kept.size);
    for (int64_t i = 0; i < kept.size; i++)
        for (int64_t k = 0; k < lonely.size; k++)
            sums[i] += dense[i * lonely.size + k];
    side->letters = arena_strndup(scratch, kept.letters, (size_t)kept.n);
    side->n = kept.n;
    int64_t stride = 1;
    for (int i = kept.n - 1; i >= 0; i--)
    {
        side->strides[kept.letters[i] - 'a'] = stride;
        stride *= extents[kept.letters[i] - 'a'];
    }
    return sums;
}

Status interp_einsum(InterpOp *x)
{
    const char *expr = ir_attrs_str(&x->op->attrs, IR_ATTR_expr);
    const char *comma = strchr(expr, ','), *arrow = strstr(expr, "->");
    int64_t extents[N_LETTERS] = {0};
    EinsumSide a = einsum_side(expr, (int)(comma - expr), interp_in_type(x, 0), extents);
    EinsumSide b = einsum_side(comma + 1, (int)(arrow - comma - 1), interp_in_type(x, 1), extents);
    EinsumSide c = einsum_side(arrow + 2, (int)strlen(arrow + 2), interp_out_type(x, 0), extents);
    Arena *arena = arena_create(); /* large temporaries: not for the rest of the run */
    const double *a_data = sum_lonely(arena, &a, x->in[0], &b, &c, extents);
    const double *b_data = sum_lonely(arena, &b, x->in[1], &a, &c, extents);
    LetterClass batch = {.size = 1}, rows = {.size = 1}, cols = {.size = 1}, depth = {.size = 1};
    for (int i = 0; i < c.n; i++)
    {
        bool in_a = has_letter(&a, c.letters[i]), in_b = has_letter(&b, c.letters[i]);
        class_add(in_a && in_b ? &batch : in_a ? &rows : &cols, c.letters[i], extents);
    }
    for (int i = 0; i < a.n; i++)
        if (has_letter(&b, a.letters[i]) && !has_letter(&c, a.letters[i]))
            class_add(&depth, a.letters[i], extents);
    a_data = gather_side(arena, &a, a_data, (const LetterClass *const[]){&batch, &rows, &depth}, 3, extents);
    b_data = gather_side(arena, &b, b_data, (const LetterClass *const[]){&batch, &depth, &cols}, 3, extents);
    double *product = ARENA_ARRAY(arena, double, batch.size *rows.size *cols.size);
    for (int64_t i = 0; i < batch.size; i++)
        interp_gemm(rows.size, cols.size, depth.size, a_data + i * rows.size * depth.size,
                    b_data + i * depth.size * cols.size, product + i * rows.size * cols.size);
    int64_t dims[IR_MAX_RANK], from[IR_MAX_RANK], to[IR_MAX_RANK], stride = 1;
    const LetterClass *order[3] = {&batch, &rows, &cols};
    int rank = 0;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < order[i]->n; k++, rank++)
        {
            dims[rank] = extents[order[i]->letters[k] - 'a'];
            to[rank] = c.strides[order[i]->letters[k] - 'a'];
        }
    for (int i = rank - 1; i >= 0; i--)
    {
        from[i] = stride;
        stride *= dims[i];
    }
    interp_copy_strided(rank, dims, product, from, x->out[0], to);
    arena_destroy(arena);
    return STATUS_OK;
}

/* ---- matmul */

static double act_relu(double v)
{
    return v > 0 ? v : 0;
}

static double act_gelu_erf(double v)
{
    return 0.5 * v * (1 + erf(v * M_SQRT1_2));
}

static double act_gelu_tanh(double v)
{
    return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}

static double act_silu(double v)
{
    return v / (1 + exp(-v));
}

static double slope_relu(double v)
{
    return v > 0;
}

static double slope_gelu_erf(double v)
{
    return 0.5 * (1 + erf(v * M_SQRT1_2)) + v * exp(-0.5 * v * v) / sqrt(2 * M_PI);
}

static double slope_gelu_tanh(double v)
{
    const double k = sqrt(2 / M_PI), t = tanh(k * (v + 0.044715 * v * v * v));
    return 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * k * (1 + 3 * 0.044715 * v * v);
}

static double slope_silu(double v)
{
    const double s = 1 / (1 + exp(-v));
    return s * (1 + v * (1 - s));
}

typedef struct
{
    const char *name;
    double (*apply)(double);
    double (*slope)(double);
} Act;

/* NULL for NULL. */
static const Act *find_act(const char *name)
{
    static const Act acts[] = {{"relu", act_relu, slope_relu},
                               {"gelu_erf", act_gelu_erf, slope_gelu_erf},
                               {"gelu_tanh", act_gelu_tanh, slope_gelu_tanh},
                               {"silu", act_silu, slope_silu}};
    for (size_t i = 0; name && i < sizeof acts / sizeof acts[0]; i++)
        if (strcmp(acts[i].name, name) == 0)
            return &acts[i];
    ENSURE(!name);
    return NULL;
}

/* Copies n_mats matrices [n_rows, n_cols] from their transposes. */
static double *flip(Arena *arena, const double *src, int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    double *dst = ARENA_ARRAY(arena, double, n_mats *n_rows *n_cols);
    for (int64_t p = 0; p < n_mats; p++)
        for (int64_t i = 0; i < n_rows; i++)
            for (int64_t k = 0; k < n_cols; k++)
                dst[(p * n_rows + i) * n_cols + k] = src[(p * n_cols + k) * n_rows + i];
    return dst;
}

static void sum_rows(const double *src, int64_t n_rows, int64_t n_cols, double *sums)
{
    memset(sums, 0, (size_t)n_cols * sizeof *sums);
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < n_cols; j++)
            sums[j] += src[i * n_cols + j];
}

Status interp_matmul(InterpOp *x)
{
    const IrType *a_type = interp_in_type(x, 0), *out = interp_out_type(x, 0);
    const IrAttrs *attrs = &x->op->attrs;
    bool ta = ir_attrs_bool(attrs, IR_ATTR_ta), tb = ir_attrs_bool(attrs, IR_ATTR_tb);
    int64_t n_rows = out->dims[out->rank - 2], n_cols = out->dims[out->rank - 1];
    int64_t depth = a_type->dims[ta ? out->rank - 2 : out->rank - 1];
    int64_t n_mats = ir_type_n_elems(out) / (n_rows * n_cols);
    Arena *arena = arena_create();
    const double *a = ta ? flip(arena, x->in[0], n_mats, n_rows, depth) : x->in[0];
    const double *b = tb ? flip(arena, x->in[1], n_mats, depth, n_cols) : x->in[1];
    for (int64_t p = 0; p < n_mats; p++)
        interp_gemm(n_rows, n_cols, depth, a + p * n_rows * depth, b + p * depth * n_cols,
                    x->out[0] + p * n_rows * n_cols);
    arena_destroy(arena);
    uint32_t at = 2;
    const double *bias = ir_attrs_bool(attrs, IR_ATTR_bias) ? x->in[at++] : NULL;
    const Act *act = find_act(ir_attrs_str(attrs, IR_ATTR_act)), *dact = find_act(ir_attrs_str(attrs, IR_ATTR_dact));
    const double *point = dact ? x->in[at++] : NULL;
    const double *residual = ir_attrs_bool(attrs, IR_ATTR_residual) ? x->in[at++] : NULL;
    double *aux = ir_attrs_bool(attrs, IR_ATTR_aux) ? x->out[1] : NULL;
    for (int64_t i = 0; i < n_mats * n_rows * n_cols; i++)
    {
        double v = x->out[0][i] + (bias ? bias[i % n_cols] : 0);
        if (aux)
            aux[i] = v;
        v = act ? act->apply(v) : dact ? v * dact->slope(point[i]) : v;
        x->out[0][i] = v + (residual ? residual[i] : 0);
    }
    if (ir_attrs_bool(attrs, IR_ATTR_sums))
        sum_rows(x->in[1], depth, n_cols, x->out[1]);
    return STATUS_OK;
}

/* ---- composites over the last axis */

static void last_axis(const IrType *type, int64_t *out_n_rows, int64_t *out_width)
{
    *out_width = type->dims[type->rank - 1];
    *out_n_rows = ir_type_n_elems(type) / *out_width;
}

/* logsumexp of a row: -inf for a row of -inf. */
static double row_lse(const double *row, int64_t width)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < width; i++)
        top = row[i] > top || isnan(row[i]) ? row[i] : top;
    if (isinf(top) && top < 0)
        return top;
    for (int64_t i = 0; i < width; i++)
        sum += exp(row[i] - top);
    return top + log(sum);
}

Status interp_softmax(InterpOp *x)
{
    int64_t n_rows, width;
    last_axis(interp_in_type(x, 0), &n_rows, &width);
    for (int64_t r = 0; r < n_rows; r++)
    {
        double lse = row_lse(x->in[0] + r * width, width);
        for (int64_t i = r * width; i < (r + 1) * width; i++)
            x->out[0][i] = exp(x->in[0][i] - lse);
    }
    return STATUS_OK;
}

/* beta NULL: rms_norm, which does not subtract the mean. */
static void norm(InterpOp *x, const double *gamma, const double *beta)
{
    double eps = ir_attrs_float(&x->op->attrs, IR_ATTR_eps, 0);
    int64_t n_rows, width;
    last_axis(interp_in_type(x, 0), &n_rows, &width);
    for (int64_t r = 0; r < n_rows; r++)
    {
        const double *row = x->in[0] + r * width;
        double mean = 0, var = 0;
        for (int64_t i = 0; beta && i < width; i++)
            mean += row[i] / (double)width;
        for (int64_t i = 0; i < width; i++)
            var += (row[i] - mean) * (row[i] - mean) / (double)width;
        for (int64_t i = 0; i < width; i++)
            x->out[0][r * width + i] = (row[i] - mean) / sqrt(var + eps) * gamma[i] + (beta ? beta[i] : 0);
    }
}

Status interp_layer_norm(InterpOp *x)
{
    norm(x, x->in[1], x->in[2]);
    return STATUS_OK;
}

Status interp_rms_norm(InterpOp *x)
{
    norm(x, x->in[1], NULL);
    return STATUS_OK;
}

/* 0 or 1 / (1 - p). */
static double drop_factor(double p, const double *key, double sample, int64_t stream, int64_t elem)
{
    return interp_uniform(key, sample, stream, elem) >= p ? 1 / (1 - p) : 0;
}

Status interp_dropout(InterpOp *x)
{
    const IrType *type = interp_in_type(x, 0);
    double p = ir_attrs_float(&x->op->attrs, IR_ATTR_p, 0);
    int64_t stream = interp_stream(x);
    int64_t n_batch = type->dims[0], n_row = ir_type_n_elems(type) / n_batch;
    for (int64_t b = 0; b < n_batch; b++)
        for (int64_t e = 0; e < n_row; e++)
            x->out[0][b * n_row + e] = x->in[0][b * n_row + e] * drop_factor(p, x->in[1], x->in[2][b], stream, e);
    return STATUS_OK;
}

Status interp_cross_entropy(InterpOp *x)
{
    int64_t n_rows, width;
    last_axis(interp_in_type(x, 0), &n_rows, &width);
    for (int64_t r = 0; r < n_rows; r++)
    {
        double label = x->in[1][r];
        bool in_range = label >= 0 && label < (double)width;
        x->out[0][r] = row_lse(x->in[0] + r * width, width) - (in_range ? x->in[0][r * width + (int64_t)label] : 0);
    }
    return STATUS_OK;
}

/* ---- attention */

/* Operands and attributes of attention and attention_grad. */
typedef struct
{
    const double *q, *k, *v, *bias, *key, *sample;
    const double **rest; /* attention_grad: out, lse, dout */
    int64_t n_batch, n_queries, n_heads, width, n_keys, n_groups;
    int64_t q_row, k_row; /* from one query or key to the next */
    bool packed;
    int64_t bias_strides[4]; /* b, h, t, s */
    double scale, p;
    int64_t window, stream;
    bool causal;
} Attention;

static Attention attention_read(const InterpOp *x)
{
    const IrAttrs *attrs = &x->op->attrs;
    const bool packed = ir_attrs_bool(attrs, IR_ATTR_packed);
    const IrType *q = interp_in_type(x, 0), *k = packed ? q : interp_in_type(x, 1);
    const int64_t n_in_row = packed ? 3 : 1, third = q->dims[2] / n_in_row * q->dims[3];
    Attention at = {.q = x->in[0],
                    .k = packed ? x->in[0] + third : x->in[1],
                    .v = packed ? x->in[0] + 2 * third : x->in[2],
                    .n_batch = q->dims[0],
                    .n_queries = q->dims[1],
                    .n_heads = q->dims[2] / n_in_row,
                    .width = q->dims[3],
                    .n_keys = k->dims[1],
                    .n_groups = k->dims[2] / n_in_row,
                    .q_row = q->dims[2] * q->dims[3],
                    .k_row = k->dims[2] * k->dims[3],
                    .packed = packed,
                    .scale = ir_attrs_float(attrs, IR_ATTR_scale, 1),
                    .p = ir_attrs_float(attrs, IR_ATTR_p, 0),
                    .window = ir_attrs_int(attrs, IR_ATTR_window, 0),
                    .stream = interp_stream(x),
                    .causal = ir_attrs_bool(attrs, IR_ATTR_causal)};
    uint32_t next = packed ? 1 : 3;
    if (ir_attrs_bool(attrs, IR_ATTR_bias))
    {
        const IrType *bias = interp_in_type(x, next);
        interp_strides(bias, at.bias_strides);
        for (int i = 0; i < 4; i++)
            at.bias_strides[i] = bias->dims[i] == 1 ? 0 : at.bias_strides[i];
        at.bias = x->in[next++];
    }
    if (at.p > 0)
    {
        at.key = x->in[next++];
        at.sample = x->in[next++];
    }
    at.rest = x->in + next;
    return at;
}

static const double *q_row(const Attention *at, const double *q, int64_t b, int64_t h, int64_t t)
{
    return q + (b * at->n_queries + t) * at->q_row + h * at->width;
}

/* Offset of the row of k and v that query head h uses. */
static int64_t kv_offset(const Attention *at, int64_t b, int64_t h, int64_t s)
{
    int64_t group = h / (at->n_heads / at->n_groups);
    return (b * at->n_keys + s) * at->k_row + group * at->width;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Scores of one query over all keys; -inf where masked. */
static void score_row(const Attention *at, int64_t b, int64_t h, int64_t t, double *out_scores)
{
    for (int64_t s = 0; s < at->n_keys; s++)
    {
        int64_t distance = t + at->n_keys - at->n_queries - s;
        bool masked = (at->causal && distance < 0) || (at->window > 0 && llabs(distance) > at->window);
        double score = at->scale * dot(q_row(at, at->q, b, h, t), at->k + kv_offset(at, b, h, s), at->width);
        if (at->bias)
            score += at->bias[b * at->bias_strides[0] + h * at->bias_strides[1] + t * at->bias_strides[2] +
                              s * at->bias_strides[3]];
        out_scores[s] = masked ? -INFINITY : score;
    }
}

/* The dropout factor of one weight. */
static double keep_factor(const Attention *at, int64_t b, int64_t h, int64_t t, int64_t s)
{
    if (at->p <= 0)
        return 1;
    return drop_factor(at->p, at->key, at->sample[b], at->stream, (h * at->n_queries + t) * at->n_keys + s);
}

Status interp_attention(InterpOp *x)
{
    Attention at = attention_read(x);
    double *scores = ARENA_ARRAY(x->scratch, double, at.n_keys);
    for (int64_t b = 0; b < at.n_batch; b++)
        for (int64_t h = 0; h < at.n_heads; h++)
            for (int64_t t = 0; t < at.n_queries; t++)
            {
                score_row(&at, b, h, t, scores);
                double lse = row_lse(scores, at.n_keys);
                x->out[1][(b * at.n_heads + h) * at.n_queries + t] = lse;
                double *row = x->out[0] + ((b * at.n_queries + t) * at.n_heads + h) * at.width;
                memset(row, 0, sizeof *row * (size_t)at.width);
                for (int64_t s = 0; s < at.n_keys; s++)
                {
                    if (isinf(scores[s]) && scores[s] < 0)
                        continue;
                    double weight = exp(scores[s] - lse) * keep_factor(&at, b, h, t, s);
                    const double *value = at.v + kv_offset(&at, b, h, s);
                    for (int64_t d = 0; d < at.width; d++)
                        row[d] += weight * value[d];
                }
            }
    return STATUS_OK;
}

/* With weights w = exp(scores - lse), keep factors f and out = sum_s w f v:
 * dscores = w (f dout.v - dout.out); see FlashAttention (arXiv 2205.14135), algorithm 4. */
Status interp_attention_grad(InterpOp *x)
{
    Attention at = attention_read(x);
    const double *out = at.rest[0], *lse = at.rest[1], *dout = at.rest[2];
    double *dq = x->out[0], *dk = at.packed ? dq + (at.k - at.q) : x->out[1];
    double *dv = at.packed ? dq + (at.v - at.q) : x->out[2];
    double *scores = ARENA_ARRAY(x->scratch, double, at.n_keys);
    for (uint32_t i = 0; i < (at.packed ? 1 : 3); i++)
        memset(x->out[i], 0, sizeof(double) * (size_t)ir_type_n_elems(interp_out_type(x, i)));
    for (int64_t b = 0; b < at.n_batch; b++)
        for (int64_t h = 0; h < at.n_heads; h++)
            for (int64_t t = 0; t < at.n_queries; t++)
            {
                score_row(&at, b, h, t, scores);
                int64_t q_at = q_row(&at, at.q, b, h, t) - at.q;
                double row_lse_saved = lse[(b * at.n_heads + h) * at.n_queries + t];
                int64_t out_at = ((b * at.n_queries + t) * at.n_heads + h) * at.width;
                double delta = dot(dout + out_at, out + out_at, at.width);
                for (int64_t s = 0; s < at.n_keys; s++)
                {
                    if (isinf(scores[s]) && scores[s] < 0)
                        continue;
                    int64_t kv_at = kv_offset(&at, b, h, s);
                    double weight = exp(scores[s] - row_lse_saved), factor = keep_factor(&at, b, h, t, s);
                    double dscore = weight * (factor * dot(dout + out_at, at.v + kv_at, at.width) - delta) * at.scale;
                    for (int64_t d = 0; d < at.width; d++)
                    {
                        dv[kv_at + d] += weight * factor * dout[out_at + d];
                        dq[q_at + d] += dscore * at.k[kv_at + d];
                        dk[kv_at + d] += dscore * at.q[q_at + d];
                    }
                }
            }
    return STATUS_OK;
}
