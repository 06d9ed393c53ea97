/* Interpreter rules: leaves, data movement, reductions. Movement is one strided copy with the right strides. */
#include "base/philox.h"
#include "ir/interp_rules.h"

#include <math.h>
#include <string.h>

void interp_strides(const IrType *type, int64_t *out_strides)
{
    int64_t stride = 1;
    for (int i = type->rank - 1; i >= 0; i--)
    {
        out_strides[i] = stride;
        stride *= type->dims[i];
    }
}

void interp_copy_strided(int rank, const int64_t *dims, const double *src, const int64_t *src_strides, double *dst,
                         const int64_t *dst_strides)
{
    if (rank == 0)
    {
        *dst = *src;
        return;
    }
    for (int64_t i = 0; i < dims[0]; i++, src += src_strides[0], dst += dst_strides[0])
    {
        if (rank == 1)
            *dst = *src;
        else
            interp_copy_strided(rank - 1, dims + 1, src, src_strides + 1, dst, dst_strides + 1);
    }
}

static const int64_t *ints(const InterpOp *x, IrAttrKey key)
{
    return ir_attrs_find(&x->op->attrs, key)->ints;
}

/* ---- leaves */

Status interp_const(InterpOp *x)
{
    const IrType *type = interp_out_type(x, 0);
    double value = interp_convert((DType)type->dtype, ir_attrs_float(&x->op->attrs, IR_ATTR_value, 0));
    for (int64_t i = 0; i < ir_type_n_elems(type); i++)
        x->out[0][i] = value;
    return STATUS_OK;
}

Status interp_iota(InterpOp *x)
{
    const IrType *type = interp_out_type(x, 0);
    int64_t axis = ir_attrs_int(&x->op->attrs, IR_ATTR_axis, 0), strides[IR_MAX_RANK];
    interp_strides(type, strides);
    for (int64_t i = 0; i < ir_type_n_elems(type); i++)
        x->out[0][i] = (double)(i / strides[axis] % type->dims[axis]);
    return STATUS_OK;
}

double interp_uniform(const double *key, double sample, int64_t stream, int64_t elem)
{
    uint32_t words[4] = {(uint32_t)elem / 4, (uint32_t)(int64_t)sample, (uint32_t)(int64_t)key[1], (uint32_t)stream};
    const uint32_t philox_key[2] = {(uint32_t)(int64_t)key[0], 0x70746331u};
    philox4x32(words, philox_key, words);
    return (double)philox_unit_f32(words[(uint32_t)elem % 4]);
}

Status interp_random(InterpOp *x)
{
    const IrType *type = interp_out_type(x, 0);
    int64_t stream = interp_stream(x), n_row = ir_type_n_elems(type) / type->dims[0];
    for (int64_t b = 0; b < type->dims[0]; b++)
        for (int64_t e = 0; e < n_row; e++)
            x->out[0][b * n_row + e] = interp_uniform(x->in[0], x->in[1][b], stream, e);
    return STATUS_OK;
}

/* ---- movement */

Status interp_reshape(InterpOp *x)
{
    memcpy(x->out[0], x->in[0], sizeof(double) * (size_t)ir_type_n_elems(interp_out_type(x, 0)));
    return STATUS_OK;
}

Status interp_transpose(InterpOp *x)
{
    const IrType *out = interp_out_type(x, 0);
    int64_t from[IR_MAX_RANK], src[IR_MAX_RANK], dst[IR_MAX_RANK];
    interp_strides(interp_in_type(x, 0), from);
    interp_strides(out, dst);
    for (int i = 0; i < out->rank; i++)
        src[i] = from[ints(x, IR_ATTR_perm)[i]];
    interp_copy_strided(out->rank, out->dims, x->in[0], src, x->out[0], dst);
    return STATUS_OK;
}

Status interp_broadcast(InterpOp *x)
{
    const IrType *in = interp_in_type(x, 0), *out = interp_out_type(x, 0);
    int64_t from[IR_MAX_RANK], src[IR_MAX_RANK] = {0}, dst[IR_MAX_RANK];
    interp_strides(in, from);
    interp_strides(out, dst);
    for (int i = 0; i < in->rank; i++)
        src[ints(x, IR_ATTR_dims)[i]] = from[i];
    interp_copy_strided(out->rank, out->dims, x->in[0], src, x->out[0], dst);
    return STATUS_OK;
}

static int64_t box_offset(int rank, const int64_t *starts, const int64_t *strides)
{
    int64_t offset = 0;
    for (int i = 0; i < rank; i++)
        offset += starts[i] * strides[i];
    return offset;
}

Status interp_slice(InterpOp *x)
{
    const IrType *out = interp_out_type(x, 0);
    int64_t src[IR_MAX_RANK], dst[IR_MAX_RANK];
    interp_strides(interp_in_type(x, 0), src);
    interp_strides(out, dst);
    const double *corner = x->in[0] + box_offset(out->rank, ints(x, IR_ATTR_starts), src);
    interp_copy_strided(out->rank, out->dims, corner, src, x->out[0], dst);
    return STATUS_OK;
}

Status interp_pad(InterpOp *x)
{
    const IrType *in = interp_in_type(x, 0), *out = interp_out_type(x, 0);
    int64_t src[IR_MAX_RANK], dst[IR_MAX_RANK];
    interp_strides(in, src);
    interp_strides(out, dst);
    double value = interp_convert((DType)out->dtype, ir_attrs_float(&x->op->attrs, IR_ATTR_value, 0));
    for (int64_t i = 0; i < ir_type_n_elems(out); i++)
        x->out[0][i] = value;
    double *corner = x->out[0] + box_offset(in->rank, ints(x, IR_ATTR_lo), dst);
    interp_copy_strided(in->rank, in->dims, x->in[0], src, corner, dst);
    return STATUS_OK;
}

Status interp_concat(InterpOp *x)
{
    int64_t axis = ir_attrs_int(&x->op->attrs, IR_ATTR_axis, 0), src[IR_MAX_RANK], dst[IR_MAX_RANK];
    interp_strides(interp_out_type(x, 0), dst);
    double *corner = x->out[0];
    for (uint32_t i = 0; i < x->op->n_operands; i++)
    {
        const IrType *in = interp_in_type(x, i);
        interp_strides(in, src);
        interp_copy_strided(in->rank, in->dims, x->in[i], src, corner, dst);
        corner += in->dims[axis] * dst[axis];
    }
    return STATUS_OK;
}

static int64_t clamp_row(double index, int64_t n_rows)
{
    return index < 0 ? 0 : index >= (double)n_rows ? n_rows - 1 : (int64_t)index;
}

Status interp_gather(InterpOp *x)
{
    const IrType *table = interp_in_type(x, 0);
    int64_t n_rows = table->dims[0], row = ir_type_n_elems(table) / n_rows;
    for (int64_t i = 0; i < ir_type_n_elems(interp_in_type(x, 1)); i++)
        memcpy(x->out[0] + i * row, x->in[0] + clamp_row(x->in[1][i], n_rows) * row, sizeof(double) * (size_t)row);
    return STATUS_OK;
}

Status interp_scatter_add(InterpOp *x)
{
    const IrType *out = interp_out_type(x, 0);
    int64_t n_rows = out->dims[0], row = ir_type_n_elems(out) / n_rows;
    const size_t out_bytes = sizeof(double) * (size_t)ir_type_n_elems(out);
    if (ir_attrs_bool(&x->op->attrs, IR_ATTR_residual))
        memcpy(x->out[0], x->in[2], out_bytes);
    else
        memset(x->out[0], 0, out_bytes);
    for (int64_t i = 0; i < ir_type_n_elems(interp_in_type(x, 0)); i++)
    {
        double *to = x->out[0] + clamp_row(x->in[0][i], n_rows) * row;
        for (int64_t e = 0; e < row; e++)
            to[e] += x->in[1][i * row + e];
    }
    return STATUS_OK;
}

/* ---- reductions */

typedef double Combine(double a, double b);

static double combine_sum(double a, double b)
{
    return a + b;
}

static double combine_max(double a, double b)
{
    return a > b ? a : b;
}

static double combine_min(double a, double b)
{
    return a < b ? a : b;
}

/* dst strides of reduced axes are 0. */
static void fold(int rank, const int64_t *dims, const double *src, const int64_t *src_strides, double *dst,
                 const int64_t *dst_strides, Combine *combine)
{
    if (rank == 0)
    {
        *dst = combine(*dst, *src);
        return;
    }
    for (int64_t i = 0; i < dims[0]; i++, src += src_strides[0], dst += dst_strides[0])
        fold(rank - 1, dims + 1, src, src_strides + 1, dst, dst_strides + 1, combine);
}

static Status reduce(InterpOp *x, double start, Combine *combine)
{
    const IrType *in = interp_in_type(x, 0), *out = interp_out_type(x, 0);
    const IrAttr *axes = ir_attrs_find(&x->op->attrs, IR_ATTR_axes);
    int64_t src[IR_MAX_RANK], to[IR_MAX_RANK], dst[IR_MAX_RANK];
    interp_strides(in, src);
    interp_strides(out, to);
    uint32_t n_reduced = 0;
    for (int i = 0; i < in->rank; i++)
    {
        bool reduced = n_reduced < axes->n && axes->ints[n_reduced] == i;
        dst[i] = reduced ? 0 : to[i - (int)n_reduced];
        n_reduced += reduced;
    }
    for (int64_t i = 0; i < ir_type_n_elems(out); i++)
        x->out[0][i] = start;
    fold(in->rank, in->dims, x->in[0], src, x->out[0], dst, combine);
    return STATUS_OK;
}

Status interp_reduce_sum(InterpOp *x)
{
    return reduce(x, 0, combine_sum);
}

Status interp_reduce_max(InterpOp *x)
{
    return reduce(x, -INFINITY, combine_max);
}

Status interp_reduce_min(InterpOp *x)
{
    return reduce(x, INFINITY, combine_min);
}
