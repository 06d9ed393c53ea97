/* Freeze policies: how many layers, counted from the bottom, are trained no longer. Pure functions of what is known at
 * a decision; a new policy is a row of freeze_policies.def and a function in freeze_policy.c.
 *
 * L layers, L_frozen of them frozen, a prefix that never shrinks. Decisions are numbered T = 1, 2, ...
 *
 * gradnorm is Eq. 1 of PipeTransformer (He et al., ICML 2021): L_frozen(T) = min(L_frozen(T-1) + alpha (L -
 * L_frozen(T-1)), argmin over active layers of the gradient's norm). The bound is carried as a real number and rounded
 * up when it is compared.
 *
 * plasticity freezes, from the bottom, the layers whose outputs have kept their distance from those of a snapshot for
 * `patience` decisions in a row (passes/plasticity.h). */
#ifndef PTC_PASSES_FREEZE_POLICY_H
#define PTC_PASSES_FREEZE_POLICY_H

#include "passes/plasticity.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum
{
#define FREEZE_POLICY(name, needs, text) FREEZE_##name,
#include "passes/freeze_policies.def"
#undef FREEZE_POLICY
    FREEZE_POLICY_COUNT
} FreezePolicy;

/* What a decision must know besides its number. */
typedef enum
{
    FREEZE_NEEDS_NOTHING,
    FREEZE_NEEDS_NORMS,
    FREEZE_NEEDS_OUTPUTS
} FreezeNeeds;

typedef struct
{
    FreezePolicy policy;
    double alpha;          /* schedule, gradnorm: 0 < alpha < 1 */
    bool exclusive;        /* gradnorm: the layer with the smallest gradient stays active */
    uint32_t warmup;       /* the first so many decisions freeze nothing */
    uint32_t keep;         /* at least so many layers stay active */
    double percentile;     /* autofreeze: 0..100 */
    uint32_t window;       /* plasticity: readings that are averaged, */
    double tolerance;      /* the share of its steepest slope below which a layer is calm, */
    uint32_t patience;     /* and how many decisions in a row it must be; >= 1 */
    uint32_t renew;        /* plasticity: decisions from one snapshot to the next; >= 1 */
    bool guard;            /* no layer is frozen when the test loss is worse than at the decision before */
    const int64_t *counts; /* explicit: L_frozen after decision 1, 2, ...; the last one stays */
    uint32_t n_counts;
} FreezeSettings;

/* What is known at a decision. Arrays have n_layers entries; those of frozen layers mean nothing. */
typedef struct
{
    uint32_t decision; /* T */
    uint32_t n_layers, frozen;
    double bound;                 /* of the decision before; 0 at first */
    const double *norms;          /* ||g|| / ||w|| of the layer over the interval; NULL when not needed */
    const double *norms_before;   /* of the interval before; NULL: there was none */
    const Plasticity *plasticity; /* up to this decision; NULL when not needed */
    double loss, loss_before;     /* on the test split; NAN: not known */
} FreezeInput;

typedef struct
{
    uint32_t frozen;  /* >= input's */
    double bound;     /* for the next decision */
    int32_t smallest; /* the active layer (from 0) with the smallest norm; -1: not asked */
    const char *why;  /* what held it back or let it go: a few words */
} FreezeDecision;

/* False when no policy has that name. */
bool freeze_policy_by_name(const char *name, FreezePolicy *out_policy);
const char *freeze_policy_name(FreezePolicy policy);
FreezeNeeds freeze_policy_needs(FreezePolicy policy);

/* No decision freezes more layers. */
uint32_t freeze_most(const FreezeSettings *settings, uint32_t n_layers);
FreezeDecision freeze_decide(const FreezeSettings *settings, const FreezeInput *input);

#endif
