/* Between random_module.c (draws ops, knows ranges of elementwise ops) and random_rules.c (structural ops). */
#ifndef PTC_TESTS_IR_RANDOM_RULES_H
#define PTC_TESTS_IR_RANDOM_RULES_H

#include "example.h"
#include "ir/builder.h"

/* A value of the program and what is known about its elements. */
typedef struct
{
    IrValue value;
    double lo, hi;
    double error; /* bound of its rounding error in units of 2^-24; 0 for exact values */
    bool used;
} RandomValue;

typedef struct
{
    Arena *arena;
    IrModule *m;
    IrBuilder b;
    uint64_t state;
    uint32_t n_inputs;
    VEC(RandomValue) values;
    const Example *examples;
    uint32_t n_examples;
} Random;

/* 0..n-1 */
uint32_t random_below(Random *r, uint32_t n);
/* A value of the type with elements in lo..hi and an error of at most max_error: an existing one, made to fit if need
 * be, or a leaf. */
RandomValue random_want(Random *r, const IrType *type, double lo, double hi, double max_error);
/* Any existing value of rank min_rank or more with at most max_elems elements. A leaf when there is none. */
RandomValue random_pick(Random *r, int min_rank, int64_t max_elems);
/* Adds a value that an op has given; it is forgotten when it is too far from exact or too large. */
void random_add(Random *r, IrValue value, double lo, double hi, double error);

/* Draws one op that is not elementwise. */
void random_structural_op(Random *r, IrCode code);

#endif
