/* Element types and tensor types. */
#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/module.h"

#include <string.h>

typedef struct
{
    const char *name;
    int64_t size_bytes;
    bool is_float;
} DTypeInfo;

static const DTypeInfo dtypes[] = {
#define DTYPE(name, code, size_bytes, is_float) {#name, size_bytes, is_float},
#include "ir/dtypes.def"
#undef DTYPE
};

const char *dtype_name(DType dtype)
{
    return dtypes[dtype].name;
}

int64_t dtype_size_bytes(DType dtype)
{
    return dtypes[dtype].size_bytes;
}

bool dtype_is_float(DType dtype)
{
    return dtypes[dtype].is_float;
}

bool dtype_by_name(const char *name, DType *out_dtype)
{
    for (int i = 0; i < DT_COUNT; i++)
    {
        if (strcmp(name, dtypes[i].name) == 0)
        {
            *out_dtype = (DType)i;
            return true;
        }
    }
    return false;
}

IrType ir_type(DType dtype, int rank, const int64_t *dims)
{
    ENSURE(rank >= 0 && rank <= IR_MAX_RANK);
    IrType type = {.dtype = (uint8_t)dtype, .rank = (uint8_t)rank};
    for (int i = 0; i < rank; i++)
        type.dims[i] = dims[i];
    return type;
}

IrType ir_type_scalar(DType dtype)
{
    return ir_type(dtype, 0, NULL);
}

IrType ir_type_with_dtype(IrType type, DType dtype)
{
    type.dtype = (uint8_t)dtype;
    return type;
}

bool ir_type_same_shape(const IrType *a, const IrType *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, sizeof a->dims[0] * a->rank) == 0;
}

bool ir_type_equal(const IrType *a, const IrType *b)
{
    return a->dtype == b->dtype && ir_type_same_shape(a, b);
}

int64_t ir_type_n_elems(const IrType *type)
{
    int64_t n = 1;
    for (int i = 0; i < type->rank; i++)
        n *= type->dims[i];
    return n;
}

int64_t ir_type_size_bytes(const IrType *type)
{
    return ir_type_n_elems(type) * dtype_size_bytes((DType)type->dtype);
}

const char *ir_type_text(Arena *arena, const IrType *type)
{
    StrBuf buf = strbuf_make(arena);
    strbuf_addf(&buf, "%s[", dtype_name((DType)type->dtype));
    for (int i = 0; i < type->rank; i++)
        strbuf_addf(&buf, "%s%lld", i ? "x" : "", (long long)type->dims[i]);
    strbuf_add(&buf, "]");
    return strbuf_text(&buf);
}

bool ir_type_stretch(const IrType *a, const IrType *b, IrType *out_type)
{
    int rank = a->rank > b->rank ? a->rank : b->rank;
    IrType common = {.dtype = a->dtype, .rank = (uint8_t)rank}; /* out_type may be a */
    for (int i = 0; i < rank; i++)
    {
        int64_t x = i < a->rank ? a->dims[a->rank - 1 - i] : 1;
        int64_t y = i < b->rank ? b->dims[b->rank - 1 - i] : 1;
        if (x != y && x != 1 && y != 1)
            return false;
        common.dims[rank - 1 - i] = x == 1 ? y : x;
    }
    *out_type = common;
    return true;
}
