#include "passes/freeze_policy.h"

#include "base/bug.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef FreezeDecision PolicyFn(const FreezeSettings *settings, const FreezeInput *input);

#define FREEZE_POLICY(name, needs, text) static PolicyFn decide_##name;
#include "passes/freeze_policies.def"
#undef FREEZE_POLICY

static const struct
{
    const char *name;
    FreezeNeeds needs;
    PolicyFn *decide;
} policies[] = {
#define FREEZE_POLICY(name, needs, text) {#name, FREEZE_NEEDS_##needs, decide_##name},
#include "passes/freeze_policies.def"
#undef FREEZE_POLICY
};

bool freeze_policy_by_name(const char *name, FreezePolicy *out_policy)
{
    for (int i = 0; i < FREEZE_POLICY_COUNT; i++)
        if (strcmp(policies[i].name, name) == 0)
        {
            *out_policy = (FreezePolicy)i;
            return true;
        }
    return false;
}

const char *freeze_policy_name(FreezePolicy policy)
{
    return policies[policy].name;
}

FreezeNeeds freeze_policy_needs(FreezePolicy policy)
{
    return policies[policy].needs;
}

/* ---- the policies */

/* Up, but not by what rounding has added. */
static uint32_t up(double x)
{
    return (uint32_t)ceil(x - 1e-9);
}

static double next_bound(const FreezeSettings *settings, const FreezeInput *input)
{
    return input->bound + settings->alpha * (input->n_layers - input->bound);
}

static FreezeDecision decide_none(const FreezeSettings *settings, const FreezeInput *input)
{
    (void)settings;
    return (FreezeDecision){.frozen = input->frozen, .smallest = -1, .why = "nothing is to be frozen"};
}

static FreezeDecision decide_schedule(const FreezeSettings *settings, const FreezeInput *input)
{
    const double bound = next_bound(settings, input);
    return (FreezeDecision){.frozen = up(bound), .bound = bound, .smallest = -1, .why = "schedule"};
}

static FreezeDecision decide_gradnorm(const FreezeSettings *settings, const FreezeInput *input)
{
    const double bound = input->frozen + settings->alpha * (input->n_layers - input->frozen);
    uint32_t smallest = input->frozen;
    for (uint32_t layer = input->frozen; layer < input->n_layers; layer++)
        if (input->norms[layer] < input->norms[smallest])
            smallest = layer;
    const uint32_t wanted = smallest + (settings->exclusive ? 0 : 1), most = up(bound);
    return (FreezeDecision){.frozen = wanted < most ? wanted : most,
                            .bound = bound,
                            .smallest = (int32_t)smallest,
                            .why =
                                wanted <= most ? "up to the smallest gradient" : "at most alpha of the active layers"};
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between the closest ranks, as numpy's percentile. values is sorted by this. */
static double percentile_of(double *values, uint32_t n, double percentile)
{
    qsort(values, n, sizeof *values, compare_doubles);
    const double at = percentile / 100 * (n - 1);
    const uint32_t below = (uint32_t)at, above = below + 1 < n ? below + 1 : below;
    return values[below] + (at - below) * (values[above] - values[below]);
}

/* Liu et al., "AutoFreeze" (2021): the change of each layer's norm, relative to what it was, against a percentile of
 * those of all active layers. */
static FreezeDecision decide_autofreeze(const FreezeSettings *settings, const FreezeInput *input)
{
    FreezeDecision decision = {.frozen = input->frozen, .smallest = -1, .why = "no norms of an interval before"};
    const uint32_t first = input->frozen, n = input->n_layers - first;
    if (!input->norms_before || n == 0)
        return decision;
    double *changes = malloc(2 * n * sizeof *changes);
    if (!changes)
        base_out_of_memory(2 * n * sizeof *changes);
    for (uint32_t i = 0; i < n; i++)
    {
        const double before = input->norms_before[first + i];
        changes[i] = before > 0 ? fabs(before - input->norms[first + i]) / before : INFINITY;
        changes[n + i] = changes[i];
    }
    const double threshold = percentile_of(changes + n, n, settings->percentile);
    while (decision.frozen < input->n_layers && changes[decision.frozen - first] < threshold)
        decision.frozen++;
    free(changes);
    decision.why = "up to the first layer whose gradient still changes";
    return decision;
}

static FreezeDecision decide_plasticity(const FreezeSettings *settings, const FreezeInput *input)
{
    FreezeDecision decision = {
        .frozen = input->frozen, .smallest = -1, .why = "up to the first layer whose outputs still change"};
    while (decision.frozen < input->n_layers && input->plasticity[decision.frozen].calm >= settings->patience)
        decision.frozen++;
    return decision;
}

static FreezeDecision decide_explicit(const FreezeSettings *settings, const FreezeInput *input)
{
    const uint32_t last = settings->n_counts ? settings->n_counts - 1 : 0, at = input->decision - 1;
    const int64_t count = settings->n_counts ? settings->counts[at < last ? at : last] : 0;
    return (FreezeDecision){.frozen = (uint32_t)count, .smallest = -1, .why = "as the list says"};
}

uint32_t freeze_most(const FreezeSettings *settings, uint32_t n_layers)
{
    const uint32_t most = n_layers > settings->keep ? n_layers - settings->keep : 0;
    uint32_t listed = 0;
    for (uint32_t i = 0; i < settings->n_counts; i++)
        listed = settings->counts[i] > listed ? (uint32_t)settings->counts[i] : listed;
    return settings->policy == FREEZE_explicit && listed < most ? listed : most;
}

FreezeDecision freeze_decide(const FreezeSettings *settings, const FreezeInput *input)
{
    FreezeDecision stay = {.frozen = input->frozen, .bound = input->bound, .smallest = -1};
    if (input->frozen >= input->n_layers)
    {
        stay.why = "all layers are frozen";
        return stay;
    }
    if (input->decision <= settings->warmup)
    {
        stay.why = "warm-up";
        return stay;
    }
    if (settings->guard && input->loss > input->loss_before) /* false when one is not known */
    {
        stay.why = "the test loss is worse than before";
        return stay;
    }
    FreezeDecision decision = policies[settings->policy].decide(settings, input);
    const uint32_t most = freeze_most(settings, input->n_layers);
    if (decision.frozen > most)
    {
        decision.frozen = most;
        decision.why = "so many layers are to stay active";
    }
    if (decision.frozen < input->frozen)
        decision.frozen = input->frozen;
    return decision;
}
