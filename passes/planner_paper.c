/* He et al., "PipeTransformer: Automated Elastic Pipelining for Distributed Training of Large-scale Models", Algorithm
 * 1 with the sizes, the order and the tables of pipe_transformer/pipe/{auto_pipe,load_balance}.py. */
#include "passes/planner_paper.h"

/* The authors count params in millions: of sizes and their variance, which are added, that is not the same thing. */
static double size_of(const UnitCost *costs, uint32_t unit)
{
    return (double)costs[unit].n_params / 1e6;
}

static double variance(const UnitCost *costs, uint32_t first, uint32_t last)
{
    const double n = (double)last - first + 1;
    double sum = 0, squares = 0;
    if (first > last)
        return 0;
    for (uint32_t u = first; u <= last; u++)
        sum += size_of(costs, u);
    for (uint32_t u = first; u <= last; u++)
        squares += (size_of(costs, u) - sum / n) * (size_of(costs, u) - sum / n);
    return squares / n;
}

double paper_cut(const UnitCost *costs, uint32_t n_units, uint32_t frozen, uint32_t n_stages, int64_t *out_first)
{
    uint32_t next = frozen + 1;
    double left = 0, largest = 0;
    for (uint32_t u = next; u <= n_units; u++)
        left += size_of(costs, u);
    for (uint32_t s = 0; s < n_stages; s++)
    {
        const double n_left = n_stages - s, most = left / n_left + variance(costs, next, n_units) / n_left;
        double size = 0;
        out_first[s] = next;
        while (next <= n_units && (s + 1 == n_stages || size + size_of(costs, next) < most))
            size += size_of(costs, next++);
        left -= size;
        largest = size > largest ? size : largest;
    }
    out_first[n_stages] = n_units + 1;
    return largest * 1e6;
}

void paper_fill(uint32_t n_stages, int64_t *first)
{
    for (uint32_t s = 1; s < n_stages; s++)
        if (first[s] <= first[s - 1])
            first[s] = first[s - 1] + 1;
    for (uint32_t s = n_stages - 1; s > 0; s--)
        if (first[s] >= first[s + 1])
            first[s] = first[s + 1] - 1;
}

uint32_t paper_stages(Arena *scratch, const UnitCost *costs, uint32_t n_units, uint32_t frozen, uint32_t n_first)
{
    int64_t *first = ARENA_ARRAY(scratch, int64_t, n_first + 1);
    const double most = paper_cut(costs, n_units, 0, n_first, first);
    uint32_t n_stages = n_first;
    while (n_stages > 1 && paper_cut(costs, n_units, frozen, n_stages / 2, first) <= most)
        n_stages /= 2;
    return n_stages;
}

uint32_t paper_micro(uint32_t n_stages)
{
    return n_stages == 8 ? 2 * n_stages : n_stages == 2 ? 8 * n_stages : 4 * n_stages;
}

bool paper_caches(uint32_t n_layers, uint32_t n_frozen)
{
    return n_frozen >= (n_layers <= 12 ? 3u : 5u);
}
