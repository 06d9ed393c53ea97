/* Which part of the update can be one replica's own: what hangs on the gradient of one param only.
 *
 * A family is the sums, the optimizer states and the values that lead to the new value of a param,
 * or of several params that something binds together. It can have one owner when nothing else reads a tensor of it but
 * the new params. A single number of it (a sum of squares, for a norm) may be read by anybody: it is then published. A
 * sum that is one number, and a tensor that others read, make no family: what comes of them is common. */
#ifndef PTC_PASSES_OWNERSHIP_H
#define PTC_PASSES_OWNERSHIP_H

#include "ir/module.h"

typedef struct
{
    uint32_t *value;    /* by value: its family; 0: common */
    uint32_t *set;      /* by op that is a set of a state: the family that the state belongs to; 0: common */
    IrGlobal *param;    /* by value: the param that it becomes, when it has a family; 0: none */
    bool *is_published; /* by value */
    uint32_t n;         /* families are below it */
} Ownership;

/* Of a step function whose sums over micro-batches are `accumulate`s. Arrays are as long as m has values or ops. */
Ownership ownership_find(Arena *arena, const IrModule *m, IrFunc func);
/* The family of what an op makes or keeps; 0: common. */
uint32_t ownership_of_op(const Ownership *o, const IrModule *m, IrOp op);

#endif
