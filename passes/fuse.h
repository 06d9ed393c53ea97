/* What the parts of pass fuse share: fuse_fates.c says what becomes of each op, fuse.c decides the groups, outline.c
 * makes kernels of them. */
#ifndef PTC_PASSES_FUSE_H
#define PTC_PASSES_FUSE_H

#include "ir/module.h"

/* What becomes of an op of a step function. */
typedef enum
{
    FUSE_STAYS,   /* get, set, check_finite, matmul: stays in the step function */
    FUSE_CLONED,  /* constants, views, small scalar sums: copied into every kernel that reads it */
    FUSE_GROUPED, /* elementwise work and reductions: belongs to one group */
    FUSE_ROOT     /* a kernel of its own: templates, and clonable ops that something that stays reads */
} FuseFate;

typedef struct
{
    VEC(IrOp) ops;   /* in program order; empty once merged into another */
    int64_t n_elems; /* the domain: rows x inner */
    int64_t n_inner; /* 0: any split will do */
    bool reduces;
} FuseGroup;

typedef struct
{
    Arena *scratch;
    IrModule *m;
    IrFunc func;
    FuseFate *fate;        /* by op */
    uint32_t *group_of;    /* by op; 0 = none */
    VEC(FuseGroup) groups; /* [0] unused */
} FusePlan;

/* Moves the axes that reductions reduce to the end, where they are in the middle. */
void fuse_normalise_reductions(IrModule *m, IrFunc func);
/* Fills plan->fate. */
void fuse_decide_fates(FusePlan *plan);
/* Over leading axes, or all. */
bool fuse_is_column_reduction(const IrModule *m, const IrOpData *op);
/* The result has the operand's elements in the operand's order: a reshape, or bf16 read as f32. */
bool fuse_keeps_elements(const IrModule *m, const IrOpData *op);

/* Makes a kernel of every group and rewrites the function to calls, in an order that respects data and effects.
 * Equal kernels are shared. */
void fuse_outline(FusePlan *plan);

/* What op depends on among the ops that are not FUSE_CLONED, looking through those that are: appended to *out. */
typedef VEC(IrOp) FuseOps;
void fuse_collect_deps(const FusePlan *plan, IrOp op, FuseOps *out);

#endif
