/* The EXAMPLE column of ops.def as modules: one small case for every op that has one, and variants of ops whose
 * attributes change what they do (matmul epilogues, causal attention, ...). A new row of ops.def is covered by being
 * there. Used by the round-trip, gradient and device tests.
 *
 * A built example is a step function that reads operand i from global "in<i>" (get), runs the op, and writes result i
 * to output global "out<i>" (set):
 *
 *     for (uint32_t i = 0; i < example_count(); i++)
 *     {
 *         Example example = example_at(arena, i);
 *         IrModule *m = ir_module_create(arena, example.label);
 *         IrOp op = example_build(m, &example, EXAMPLE_INPUTS, "train");
 *         ...
 *     } */
#ifndef PTC_TESTS_IR_EXAMPLE_H
#define PTC_TESTS_IR_EXAMPLE_H

#include "ir/module.h"

enum
{
    EXAMPLE_MAX_OPERANDS = 8
};

typedef struct
{
    const char *label; /* "matmul {ta=true}" */
    IrCode code;
    uint32_t n_operands;
    IrType operands[EXAMPLE_MAX_OPERANDS];
    bool positive[EXAMPLE_MAX_OPERANDS]; /* the op wants values above zero */
    bool has_given;
    IrType given; /* the result's type, for ops whose rule does not compute it */
    IrAttrs attrs;
} Example;

/* Rows with EXAMPLE in the order of ops.def, then the variants. */
uint32_t example_count(void);
/* index < example_count(). The table being ours, a bad row is a BUG. */
Example example_at(Arena *arena, uint32_t index);
/* An example of one's own, written as in the table: example_make(arena, "cast", "i32[3] -> f32[3]", ""). */
Example example_make(Arena *arena, const char *op, const char *types, const char *attrs);

typedef enum
{
    EXAMPLE_INPUTS, /* operands are input globals */
    EXAMPLE_PARAMS  /* float operands are trainable params, the others inputs */
} ExampleOperands;

/* Builds it into a module that has no globals "in<i>", "out<i>" and no function func_name yet. Returns the op; its
 * function ends with the sets, and more ops may be added behind. */
IrOp example_build(IrModule *m, const Example *example, ExampleOperands operands, const char *func_name);

/* ir_type_n_elems(operands[i]) test values, the same for the same seed, exact in the operand's dtype: floats in
 * [-2, 2) or, where positive, [0.5, 2.5), in multiples of 1/64; i32 and u8 in 0..4, bool 0 or 1. */
void example_values(const Example *example, uint32_t operand, uint64_t seed, double *out_values);

#endif
