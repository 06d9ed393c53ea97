/* Element types of stored data, and tensors by name: the common words of data sets, safetensors and checkpoints.
 * Independent of the IR; elem_by_name("f32") is the bridge (names are those of ir/dtypes.def). */
#ifndef PTC_RUNTIME_ELEM_H
#define PTC_RUNTIME_ELEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum
{
#define ELEM(name, code, size_bytes, safetensors, idx_code) ELEM_##code,
#include "runtime/elems.def"
#undef ELEM
    ELEM_COUNT
} Elem;

enum
{
    TENSOR_MAX_RANK = 8 /* = IR_MAX_RANK */
};

/* A tensor that someone else owns: row-major, little-endian. rank 0 is a scalar; a dimension may be 0. */
typedef struct
{
    const char *name;
    Elem elem;
    uint32_t rank;
    int64_t dims[TENSOR_MAX_RANK];
    const void *data;
} NamedTensor;

const char *elem_name(Elem elem);
size_t elem_size_bytes(Elem elem);
/* The name in a safetensors header ("F32"). */
const char *elem_safetensors_name(Elem elem);
/* False when there is no such type. */
bool elem_by_name(const char *name, Elem *out_elem);
bool elem_by_safetensors_name(const char *name, Elem *out_elem);
bool elem_by_idx_code(uint8_t code, Elem *out_elem);

/* dims[0] * ... * dims[rank - 1] * size of elem. False when a dimension is negative, rank is too high or the product
 * does not fit in 63 bits. */
bool elem_tensor_size_bytes(Elem elem, uint32_t rank, const int64_t *dims, uint64_t *out_size_bytes);
/* "f32[3x4]", written as snprintf does. */
void elem_tensor_text(Elem elem, uint32_t rank, const int64_t *dims, char *text, size_t cap);

/* True when each value of `from` is exactly a value of `to` and elem_convert supports the pair (the same type;
 * 8-, 16- and 32-bit integers and f32 to something wider). */
bool elem_converts(Elem from, Elem to);
/* Converts n_elems values; ENSUREs elem_converts. */
void elem_convert(Elem from, const void *src, Elem to, void *dst, size_t n_elems);
/* Element i as f64, for integers of at most 32 bits, f32 and f64 (else BUG). data need not be aligned. */
double elem_get_f64(Elem elem, const void *data, uint64_t i);

#endif
