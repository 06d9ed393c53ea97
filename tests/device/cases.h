/* The cases of the conformance test: small modules with one step function @train. */
#ifndef PTC_TESTS_DEVICE_CASES_H
#define PTC_TESTS_DEVICE_CASES_H

#include "example.h"

typedef struct
{
    const char *label;
    IrModule *m;
    bool has_example;
    Example example;   /* its values, for globals "in<i>" */
    uint64_t seed;     /* otherwise those of random_module_values */
    double tolerance;  /* absolute */
    double relative;   /* to the reference element */
    double of_largest; /* to the largest magnitude in the reference tensor */
} DeviceCase;

typedef VEC(DeviceCase) DeviceCases;

/* Every example of the op table and its variants. */
void device_cases_of_examples(Arena *arena, DeviceCases *cases);
/* Elementwise rows in ragged shapes; the structural rows in sizes that no block divides. */
void device_cases_of_shapes(Arena *arena, DeviceCases *cases);
/* Attention and its gradient over shapes, masks, biases, dropout. */
void device_cases_of_attention(Arena *arena, DeviceCases *cases);
/* Random modules, seeds first_seed .. first_seed + n - 1. */
void device_cases_random(Arena *arena, DeviceCases *cases, uint64_t first_seed, uint32_t n);
/* The same as training programs, differentiated. */
void device_cases_gradients(Arena *arena, DeviceCases *cases, uint64_t first_seed, uint32_t n);

#endif
