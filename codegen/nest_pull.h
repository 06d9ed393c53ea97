/* Pull: the instruction that computes element `at` of a value, memoised. Internal to the nest. */
#ifndef PTC_CODEGEN_NEST_PULL_H
#define PTC_CODEGEN_NEST_PULL_H

#include "codegen/nest.h"

typedef struct
{
    IrValue value;
    Idx at;
    NestInst guard;
    NestInst inst;
} PullMemo;

typedef struct
{
    Arena *arena;
    Nest *nest;
    NestStage *stage;
    int final;      /* pulling for this final stage; -1: the main stage */
    uint32_t phase; /* now */
    VEC(PullMemo) memo;
    const char *why; /* first failure */
} Pull;

/* Element at linear position `at` of the value, or 0 with p->why set. */
NestInst pull_value(Pull *p, IrValue value, Idx at);
/* True when an op of this code can be inside a loop kernel. */
bool pull_has_rule(IrCode code);
/* The value of an inner instruction in a slot for use after its phase. */
void pull_keep(NestStage *stage, NestInst inst);

#endif
