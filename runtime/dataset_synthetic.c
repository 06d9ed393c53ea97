/* Data format `synthetic`: uniform random values, a pure function of (seed, field name, sample, element), made when
 * they are read. For tests, benchmarks and models whose data is not at hand. */
#include "base/philox.h"
#include "runtime/dataset_formats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum
{
    CHEAP_BYTES = 32 * 1024 /* of a sample that a thread makes many of at once */
};

typedef struct
{
    uint32_t key[2];
    double low;
    double width; /* integers: how many values; floats: high - low */
    bool is_float;
} Synthetic;

static void store(Elem elem, void *dst, uint64_t i, double value)
{
#define STORE(CODE, type)                                                                                              \
    case ELEM_##CODE:                                                                                                  \
        ((type *)dst)[i] = (type)value;                                                                                \
        break;
    switch (elem)
    {
        STORE(F32, float)
        STORE(F64, double)
        STORE(I32, int32_t)
        STORE(I16, int16_t)
        STORE(I8, int8_t)
        STORE(U8, uint8_t)
    default:
        break; /* refused by the opener */
    }
#undef STORE
}

/* One Philox block, two elements: each value takes 64 bits. Rounding to f32 must not reach the upper end. */
static Status read_synthetic(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    const Synthetic *synthetic = reader->state;
    const uint64_t n = reader->field.sample_elems;
    const Elem elem = reader->field.elem;
    const double low = synthetic->low, high = low + synthetic->width,
                 most = elem == ELEM_F32 ? nextafterf((float)high, (float)low) : high;
    for (uint64_t i = 0; i < n; i += 2)
    {
        uint32_t words[4] = {(uint32_t)sample, (uint32_t)(sample >> 32), (uint32_t)(i / 2), (uint32_t)(i / 2 >> 32)};
        philox4x32(words, synthetic->key, words);
        for (uint64_t k = 0; k < 2 && i + k < n; k++)
        {
            const double value = philox_unit_f64(words[2 * k], words[2 * k + 1]) * synthetic->width;
            store(elem, dst, i + k, fmin(low + (synthetic->is_float ? value : floor(value)), most));
        }
    }
    return STATUS_OK;
}

static void close_synthetic(FieldReader *reader)
{
    free(reader->state);
}

/* The values that an integer type holds; false for types that are not made. */
static bool type_range(Elem elem, double *out_low, double *out_high, bool *out_is_float)
{
    static const struct
    {
        Elem elem;
        bool is_float;
        double low, high;
    } ranges[] = {{ELEM_F32, true, -3.4e38, 3.4e38},       {ELEM_F64, true, -1e300, 1e300},
                  {ELEM_I32, false, INT32_MIN, INT32_MAX}, {ELEM_I16, false, INT16_MIN, INT16_MAX},
                  {ELEM_I8, false, INT8_MIN, INT8_MAX},    {ELEM_U8, false, 0, UINT8_MAX}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].elem == elem)
        {
            *out_low = ranges[i].low;
            *out_high = ranges[i].high;
            *out_is_float = ranges[i].is_float;
            return true;
        }
    return false;
}

Status dataset_open_synthetic(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    (void)shared;
    double low, high;
    bool is_float;
    if (!type_range(source->elem, &low, &high, &is_float))
        return status_fail(STATUS_BAD_INPUT, "data field '%s': synthetic values of type %s are not supported",
                           source->field, elem_name(source->elem));
    if (!(source->low >= low && source->high <= high && source->low <= source->high) ||
        (is_float && source->low == source->high) ||
        (!is_float && (source->low != floor(source->low) || source->high != floor(source->high))))
        return status_fail(STATUS_BAD_INPUT, "data field '%s': %g..%g is not a range of %s", source->field, source->low,
                           source->high, elem_name(source->elem));
    uint64_t sample_bytes;
    if (!elem_tensor_size_bytes(source->elem, source->rank, source->dims, &sample_bytes))
        return status_fail(STATUS_BAD_INPUT, "data field '%s': impossible sample shape", source->field);

    Synthetic *synthetic = malloc(sizeof *synthetic);
    if (!synthetic)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for data field '%s'", source->field);
    uint64_t key = XXH3_64bits_withSeed(source->field, strlen(source->field), source->seed);
    *synthetic = (Synthetic){.key = {(uint32_t)key, (uint32_t)(key >> 32)},
                             .low = source->low,
                             .width = source->high - source->low + (is_float ? 0 : 1),
                             .is_float = is_float};
    *out_reader = (FieldReader){.n_samples = source->n_samples,
                                .state = synthetic,
                                .costly = sample_bytes > CHEAP_BYTES,
                                .read = read_synthetic,
                                .close = close_synthetic,
                                .field = {.elem = source->elem, .rank = source->rank}};
    memcpy(out_reader->field.dims, source->dims, source->rank * sizeof source->dims[0]);
    return STATUS_OK;
}
