#include "passes/horizon.h"

#include <string.h>

HorizonSizes horizon_sizes(Arena *arena, const UnitCost *costs, uint32_t n_units, uint32_t last_frozen)
{
    int64_t *params = ARENA_ARRAY(arena, int64_t, n_units + 2), *states = ARENA_ARRAY(arena, int64_t, n_units + 2);
    for (uint32_t u = 1; u <= n_units; u++)
    {
        params[u + 1] = params[u] + costs[u].param_bytes;
        states[u + 1] = states[u] + (u > last_frozen ? costs[u].state_bytes : 0);
    }
    return (HorizonSizes){params, states};
}

static uint32_t first_of(const Plan *plan, uint32_t stage, uint32_t n_units)
{
    return stage < plan->n_stages ? (uint32_t)plan->first_unit[stage] : n_units + 1;
}

int64_t horizon_moved_bytes(const Horizon *h, const Plan *next)
{
    int64_t most = 0;
    for (uint32_t rank = 0; h->now && rank < next->n_stages * next->n_replicas; rank++)
    {
        uint32_t replica, from;
        const uint32_t to = rank % next->n_stages;
        plan_place(h->now, rank, &replica, &from);
        const uint32_t had = first_of(h->now, from, h->n_units), had_end = first_of(h->now, from + 1, h->n_units);
        const uint32_t first = first_of(next, to, h->n_units), end = first_of(next, to + 1, h->n_units);
        const uint32_t low = first > had ? first : had, high = end < had_end ? end : had_end;
        const bool stays = first == had && end == had_end && next->n_replicas == h->now->n_replicas;
        const int64_t *params = h->sizes.params, *states = h->sizes.states;
        int64_t bytes = params[end] - params[first] + (stays ? 0 : (states[end] - states[first]) / next->n_replicas);
        bytes -= low < high ? params[high] - params[low] : 0;
        bytes -= low < high && !stays ? (states[high] - states[low]) / next->n_replicas / h->now->n_replicas : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

double horizon_end_s(const Horizon *h, const Plan *next, double step_s)
{
    const double move_s = h->now ? (double)horizon_moved_bytes(h, next) / h->moved_bytes_per_s : 0;
    return h->n_steps * step_s + h->fill_s / next->n_replicas + move_s;
}

bool plan_is_same(const Plan *a, const Plan *b)
{
    return a->n_stages == b->n_stages && a->n_replicas == b->n_replicas && a->n_micro == b->n_micro &&
           a->schedule == b->schedule && memcmp(a->first_unit, b->first_unit, sizeof *a->first_unit * a->n_stages) == 0;
}
