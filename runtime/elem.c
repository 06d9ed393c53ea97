/* The table of element types, shapes and lossless conversions. */
#include "runtime/elem.h"

#include "base/bug.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct
{
    const char *name;
    const char *safetensors;
    uint8_t size_bytes;
    uint8_t idx_code;
} ElemRow;

static const ElemRow rows[ELEM_COUNT] = {
#define ELEM(name, code, size_bytes, safetensors, idx_code) [ELEM_##code] = {#name, safetensors, size_bytes, idx_code},
#include "runtime/elems.def"
#undef ELEM
};

const char *elem_name(Elem elem)
{
    return rows[elem].name;
}

size_t elem_size_bytes(Elem elem)
{
    return rows[elem].size_bytes;
}

const char *elem_safetensors_name(Elem elem)
{
    return rows[elem].safetensors;
}

bool elem_by_name(const char *name, Elem *out_elem)
{
    for (int i = 0; i < ELEM_COUNT; i++)
        if (strcmp(rows[i].name, name) == 0)
        {
            *out_elem = (Elem)i;
            return true;
        }
    return false;
}

bool elem_by_safetensors_name(const char *name, Elem *out_elem)
{
    for (int i = 0; i < ELEM_COUNT; i++)
        if (strcmp(rows[i].safetensors, name) == 0)
        {
            *out_elem = (Elem)i;
            return true;
        }
    return false;
}

bool elem_by_idx_code(uint8_t code, Elem *out_elem)
{
    for (int i = 0; i < ELEM_COUNT; i++)
        if (rows[i].idx_code != 0 && rows[i].idx_code == code)
        {
            *out_elem = (Elem)i;
            return true;
        }
    return false;
}

bool elem_tensor_size_bytes(Elem elem, uint32_t rank, const int64_t *dims, uint64_t *out_size_bytes)
{
    if (rank > TENSOR_MAX_RANK)
        return false;
    int64_t size = (int64_t)rows[elem].size_bytes;
    for (uint32_t i = 0; i < rank; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(size, dims[i], &size))
            return false;
    *out_size_bytes = (uint64_t)size;
    return true;
}

void elem_tensor_text(Elem elem, uint32_t rank, const int64_t *dims, char *text, size_t cap)
{
    size_t len = (size_t)snprintf(text, cap, "%s[", rows[elem].name);
    for (uint32_t i = 0; i < rank && len < cap; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%" PRId64, i ? "x" : "", dims[i]);
    if (len < cap)
        snprintf(text + len, cap - len, "]");
}

/* ---- conversion */

/* CONVERT(FROM, from_type, TO, to_type): every value of FROM is exactly one of TO. */
#define CONVERT_PAIRS                                                                                                  \
    CONVERT(U8, uint8_t, I16, int16_t)                                                                                 \
    CONVERT(U8, uint8_t, I32, int32_t)                                                                                 \
    CONVERT(U8, uint8_t, I64, int64_t)                                                                                 \
    CONVERT(U8, uint8_t, F32, float)                                                                                   \
    CONVERT(U8, uint8_t, F64, double)                                                                                  \
    CONVERT(I8, int8_t, I16, int16_t)                                                                                  \
    CONVERT(I8, int8_t, I32, int32_t)                                                                                  \
    CONVERT(I8, int8_t, I64, int64_t)                                                                                  \
    CONVERT(I8, int8_t, F32, float)                                                                                    \
    CONVERT(I8, int8_t, F64, double)                                                                                   \
    CONVERT(I16, int16_t, I32, int32_t)                                                                                \
    CONVERT(I16, int16_t, I64, int64_t)                                                                                \
    CONVERT(I16, int16_t, F32, float)                                                                                  \
    CONVERT(I16, int16_t, F64, double)                                                                                 \
    CONVERT(I32, int32_t, I64, int64_t)                                                                                \
    CONVERT(I32, int32_t, F64, double)                                                                                 \
    CONVERT(F32, float, F64, double)

bool elem_converts(Elem from, Elem to)
{
#define CONVERT(FROM, from_type, TO, to_type)                                                                          \
    if (from == ELEM_##FROM && to == ELEM_##TO)                                                                        \
        return true;
    CONVERT_PAIRS
#undef CONVERT
    return from == to;
}

void elem_convert(Elem from, const void *src, Elem to, void *dst, size_t n_elems)
{
    ENSURE(elem_converts(from, to));
    if (from == to)
    {
        memcpy(dst, src, n_elems * rows[from].size_bytes);
        return;
    }
    /* src may be unaligned (mapped files): elements are fetched with memcpy, which compiles to a load. */
#define CONVERT(FROM, from_type, TO, to_type)                                                                          \
    if (from == ELEM_##FROM && to == ELEM_##TO)                                                                        \
        for (size_t i = 0; i < n_elems; i++)                                                                           \
        {                                                                                                              \
            from_type value;                                                                                           \
            memcpy(&value, (const char *)src + i * sizeof value, sizeof value);                                        \
            ((to_type *)dst)[i] = (to_type)value;                                                                      \
        }
    CONVERT_PAIRS
#undef CONVERT
}

double elem_get_f64(Elem elem, const void *data, uint64_t i)
{
#define GET(CODE, type)                                                                                                \
    case ELEM_##CODE:                                                                                                  \
    {                                                                                                                  \
        type value;                                                                                                    \
        memcpy(&value, (const char *)data + i * sizeof value, sizeof value);                                           \
        return (double)value;                                                                                          \
    }
    switch (elem)
    {
        GET(F32, float)
        GET(F64, double)
        GET(I8, int8_t)
        GET(I16, int16_t)
        GET(I32, int32_t)
        GET(U8, uint8_t)
        GET(U16, uint16_t)
        GET(U32, uint32_t)
        GET(BOOL, uint8_t)
    default:
        BUG("elem_get_f64 of %s", elem_name(elem));
    }
#undef GET
}
