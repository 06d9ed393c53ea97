/* Cuts a chain of units into runs, the dearest as cheap as possible, among those the most even.
 *
 * Nodes are the places where a cut may be, edges are runs: from node i to j it costs P[j] - P[i] + L[i] + L[j], P sums
 * of costs and L links. A cut is a path of exactly n_stages edges. Two steps: the smallest limit on an edge under which
 * there is such a path (bisection), then the path with the smallest sum of squares among edges within the limit.
 *
 * Of two paths with k1 < k2 edges one has an edge (a, d) that spans an edge (b, c) of the other, at any chosen
 * distance. Cost (a, c) + cost (b, d) = cost (a, d) + cost (b, c), and one of the first two is no dearer than the
 * dearer of the last two: P[c] + L[c] is at most P[d] + L[d], or the other way round. So crossing over there gives a
 * path with a number of edges between, and the numbers of edges that paths can have are an interval: fewest and most
 * decide. */
#include "passes/pipeline.h"

#include <math.h>

#define SLACK       1e-12 /* costs this near, relatively, are equal: sums are rounded */
#define MAX_LAYERED 1e9   /* additions, about a second */

typedef struct
{
    Arena *arena;   /* scratch */
    uint32_t n;     /* the last node; the first is 0 */
    uint32_t *unit; /* the unit that begins at the node */
    double *cost_s, *link_s;
    int64_t *bytes, cap_bytes;
    double limit_s; /* on an edge */
    uint32_t *low;  /* per node: edges come from low[j] .. j - 1, as far as sums without links tell */
} Chain;

/* Numbers of edges that a path between a node and an end may have; an empty interval: there is none. */
typedef struct
{
    uint32_t fewest, most;
} Range;

static const Range nothing = {UINT32_MAX, 0};

static double edge_s(const Chain *chain, uint32_t i, uint32_t j)
{
    return chain->cost_s[j] - chain->cost_s[i] + (chain->link_s[i] + chain->link_s[j]);
}

static void set_limit(Chain *chain, double limit_s)
{
    chain->limit_s = limit_s;
    for (uint32_t j = 1, i = 0; j <= chain->n; j++)
    {
        while (i < j && (chain->cost_s[j] - chain->cost_s[i] > limit_s ||
                         (chain->cap_bytes && chain->bytes[j] - chain->bytes[i] > chain->cap_bytes)))
            i++;
        chain->low[j] = i;
    }
}

static void widen(Range *range, Range by)
{
    if (by.fewest == UINT32_MAX)
        return;
    range->fewest = range->fewest < by.fewest + 1 ? range->fewest : by.fewest + 1;
    range->most = range->most > by.most + 1 ? range->most : by.most + 1;
}

/* From node 0 to each node. */
static void reach(const Chain *chain, Range *ranges)
{
    ranges[0] = (Range){0, 0};
    for (uint32_t j = 1; j <= chain->n; j++)
    {
        ranges[j] = nothing;
        for (uint32_t i = chain->low[j]; i < j; i++)
            if (edge_s(chain, i, j) <= chain->limit_s)
                widen(&ranges[j], ranges[i]);
    }
}

/* From each node to the last one. */
static void reach_back(const Chain *chain, Range *ranges)
{
    for (uint32_t i = 0; i < chain->n; i++)
        ranges[i] = nothing;
    ranges[chain->n] = (Range){0, 0};
    for (uint32_t j = chain->n; j > 0; j--)
        for (uint32_t i = chain->low[j]; i < j; i++)
            if (edge_s(chain, i, j) <= chain->limit_s)
                widen(&ranges[i], ranges[j]);
}

static bool is_possible(Chain *chain, Range *ranges, uint32_t n_stages, double limit_s)
{
    set_limit(chain, limit_s * (1 + SLACK));
    reach(chain, ranges);
    return ranges[chain->n].fewest <= n_stages && n_stages <= ranges[chain->n].most;
}

/* The smallest limit, but for rounding; negative when there is no cut at all. */
static double find_limit(Chain *chain, Range *ranges, uint32_t n_stages)
{
    double low_s = chain->cost_s[chain->n] / n_stages, high_s = 0;
    for (uint32_t j = 1; j <= chain->n; j++)
    {
        double alone_s = chain->cost_s[j] - chain->cost_s[j - 1];
        low_s = low_s > alone_s ? low_s : alone_s;
        high_s = high_s > chain->link_s[j] ? high_s : chain->link_s[j];
    }
    high_s = chain->cost_s[chain->n] + 2 * high_s;
    if (!is_possible(chain, ranges, n_stages, high_s))
        return -1;
    if (is_possible(chain, ranges, n_stages, low_s))
        return low_s;
    while (high_s - low_s > SLACK / 8 * high_s)
    {
        double middle_s = low_s + (high_s - low_s) / 2;
        if (middle_s <= low_s || middle_s >= high_s)
            break;
        *(is_possible(chain, ranges, n_stages, middle_s) ? &high_s : &low_s) = middle_s;
    }
    return high_s;
}

/* ---- the most even path, layer by layer: exact */

/* Which numbers of edges from node 0 a path of n_stages edges may have at each node. Returns the additions that
 * most_even needs. */
static double find_layers(const Chain *chain, uint32_t n_stages, Range *layers)
{
    Range *back = ARENA_ARRAY(chain->arena, Range, (size_t)chain->n + 1);
    double n_additions = 0;
    reach(chain, layers);
    reach_back(chain, back);
    for (uint32_t j = 0; j <= chain->n; j++)
    {
        Range *layer = &layers[j];
        if (layer->fewest > layer->most || back[j].fewest > n_stages)
        {
            *layer = nothing;
            continue;
        }
        if (back[j].most < n_stages && layer->fewest < n_stages - back[j].most)
            layer->fewest = n_stages - back[j].most;
        if (layer->most > n_stages - back[j].fewest)
            layer->most = n_stages - back[j].fewest;
        if (layer->fewest > layer->most)
            *layer = nothing;
        else
            n_additions += (double)(j - chain->low[j]) * (layer->most - layer->fewest + 1);
    }
    return n_additions;
}

/* path gets n_stages + 1 nodes. False when rounding has closed every path. */
static bool most_even(const Chain *chain, uint32_t n_stages, const Range *layers, uint32_t *path)
{
    double **sums = ARENA_ARRAY(chain->arena, double *, (size_t)chain->n + 1); /* per node, per layer of its range */
    uint32_t **from = ARENA_ARRAY(chain->arena, uint32_t *, (size_t)chain->n + 1);
    for (uint32_t j = 0; j <= chain->n; j++)
    {
        Range to = layers[j];
        if (to.fewest > to.most)
            continue;
        uint32_t n_layers = to.most - to.fewest + 1;
        sums[j] = ARENA_ARRAY(chain->arena, double, n_layers);
        from[j] = ARENA_ARRAY(chain->arena, uint32_t, n_layers);
        for (uint32_t k = 0; k < n_layers; k++)
            sums[j][k] = j ? HUGE_VAL : 0;
        for (uint32_t i = chain->low[j]; i < j; i++)
        {
            double cost_s = edge_s(chain, i, j);
            if (cost_s > chain->limit_s || !sums[i])
                continue;
            uint32_t first = layers[i].fewest + 1 > to.fewest ? layers[i].fewest + 1 : to.fewest;
            uint32_t last = layers[i].most + 1 < to.most ? layers[i].most + 1 : to.most;
            for (uint32_t k = first; k <= last; k++)
            {
                double sum = sums[i][k - 1 - layers[i].fewest] + cost_s * cost_s;
                if (sum < sums[j][k - to.fewest])
                {
                    sums[j][k - to.fewest] = sum;
                    from[j][k - to.fewest] = i;
                }
            }
        }
    }
    if (!sums[chain->n] || isinf(sums[chain->n][n_stages - layers[chain->n].fewest]))
        return false;
    path[n_stages] = chain->n;
    for (uint32_t k = n_stages; k > 0; k--)
        path[k - 1] = from[path[k]][k - layers[path[k]].fewest];
    return true;
}

/* ---- a most even path for chains that are too long for that
 *
 * The path with the smallest sum of squares plus `price` per edge is the most even one of its number of edges.
 * Bisection of the price ends with one of n_stages edges, or with two around it, between which one is found by crossing
 * over. Where P + L and P - L ascend, squares satisfy the quadrangle inequality and that one is the most even, too
 * (Aggarwal, Schieber, Tokuyama, Finding a minimum-weight k-link path in graphs with the concave Monge property, 1994).
 */

/* The number of edges; path gets their nodes. */
static uint32_t cheapest_path(const Chain *chain, double price, double *sums, uint32_t *n_edges, uint32_t *from,
                              uint32_t *path)
{
    sums[0] = 0;
    n_edges[0] = 0;
    for (uint32_t j = 1; j <= chain->n; j++)
    {
        sums[j] = HUGE_VAL;
        for (uint32_t i = chain->low[j]; i < j; i++)
        {
            double cost_s = edge_s(chain, i, j);
            double sum = sums[i] + (cost_s * cost_s + price);
            if (cost_s > chain->limit_s || sum >= sums[j])
                continue;
            sums[j] = sum;
            from[j] = i;
            n_edges[j] = n_edges[i] + 1;
        }
    }
    uint32_t n = n_edges[chain->n];
    path[n] = chain->n;
    for (uint32_t k = n; k > 0; k--)
        path[k - 1] = from[path[k]];
    return n;
}

/* Of a path of n_few < n_stages edges and one of n_many > n_stages makes one of n_stages edges, in `few` or in `many`.
 * Returns which; NULL when rounding stands in the way. */
static uint32_t *cross_over(const Chain *chain, uint32_t n_stages, uint32_t *few, uint32_t n_few, uint32_t *many,
                            uint32_t n_many, uint32_t *spare)
{
    while (n_few < n_stages && n_stages < n_many)
    {
        uint32_t i = 0, ahead = n_stages - n_few;
        while (many[i + ahead + 1] > few[i + 1])
            i++;
        /* few[i] <= many[i + ahead] < many[i + ahead + 1] <= few[i + 1] */
        uint32_t n = 0, n_made;
        if (edge_s(chain, many[i + ahead], few[i + 1]) <= chain->limit_s)
        {
            for (uint32_t k = 0; k <= i + ahead; k++)
                spare[n++] = many[k];
            for (uint32_t k = i + 1; k <= n_few; k++)
                spare[n++] = few[k];
        }
        else if (edge_s(chain, few[i], many[i + ahead + 1]) <= chain->limit_s)
        {
            for (uint32_t k = 0; k <= i; k++)
                spare[n++] = few[k];
            for (uint32_t k = i + ahead + 1; k <= n_many; k++)
                spare[n++] = many[k];
        }
        else
            return NULL;
        n_made = n - 1;
        uint32_t **replaced = n_made <= n_stages ? &few : &many, *made = spare;
        spare = *replaced;
        *replaced = made;
        *(n_made <= n_stages ? &n_few : &n_many) = n_made;
    }
    return n_few == n_stages ? few : n_many == n_stages ? many : NULL;
}

static bool even_enough(const Chain *chain, uint32_t n_stages, uint32_t *path)
{
    size_t n_nodes = (size_t)chain->n + 1;
    double *sums = ARENA_ARRAY(chain->arena, double, n_nodes);
    uint32_t *n_edges = ARENA_ARRAY(chain->arena, uint32_t, n_nodes);
    uint32_t *from = ARENA_ARRAY(chain->arena, uint32_t, n_nodes);
    uint32_t *few = ARENA_ARRAY(chain->arena, uint32_t, n_nodes), *many = ARENA_ARRAY(chain->arena, uint32_t, n_nodes);
    uint32_t *spare = ARENA_ARRAY(chain->arena, uint32_t, n_nodes);
    double squares = chain->limit_s * chain->limit_s * (double)n_nodes;
    double high = squares > 0 ? squares : 1, low = -high; /* outweigh all squares */
    uint32_t n_few = cheapest_path(chain, high, sums, n_edges, from, few);
    uint32_t n_many = cheapest_path(chain, low, sums, n_edges, from, many);
    while (n_few < n_stages && n_stages < n_many)
    {
        double price = low + (high - low) / 2;
        if (price <= low || price >= high)
            break;
        uint32_t n = cheapest_path(chain, price, sums, n_edges, from, spare);
        uint32_t **replaced = n <= n_stages ? &few : &many, *made = spare;
        spare = *replaced;
        *replaced = made;
        *(n <= n_stages ? &n_few : &n_many) = n;
        *(n <= n_stages ? &high : &low) = price;
    }
    const uint32_t *found = cross_over(chain, n_stages, few, n_few, many, n_many, spare);
    for (uint32_t k = 0; found && k <= n_stages; k++)
        path[k] = found[k];
    return found != NULL;
}

/* ---- */

static Chain make_chain(Arena *arena, const double *cost_s, const int64_t *bytes, const double *link_s,
                        const bool *may_cut, uint32_t n_units)
{
    size_t n_nodes = (size_t)n_units + 1;
    Chain chain = {.arena = arena};
    chain.unit = ARENA_ARRAY(arena, uint32_t, n_nodes);
    chain.cost_s = ARENA_ARRAY(arena, double, n_nodes);
    chain.link_s = ARENA_ARRAY(arena, double, n_nodes);
    chain.bytes = ARENA_ARRAY(arena, int64_t, n_nodes);
    chain.low = ARENA_ARRAY(arena, uint32_t, n_nodes);
    double sum_s = 0;
    int64_t sum_bytes = 0;
    for (uint32_t i = 0; i < n_units; i++)
    {
        bool last = i + 1 == n_units;
        sum_s += cost_s[i];
        sum_bytes += bytes ? bytes[i] : 0;
        if (!last && may_cut && !may_cut[i])
            continue;
        uint32_t j = ++chain.n;
        chain.unit[j] = i + 1;
        chain.cost_s[j] = sum_s;
        chain.bytes[j] = sum_bytes;
        chain.link_s[j] = link_s && !last ? link_s[i] : 0;
    }
    return chain;
}

bool pipeline_cut(Arena *arena, const double *cost_s, const int64_t *bytes, const double *link_s, const bool *may_cut,
                  uint32_t n_units, uint32_t n_stages, int64_t cap_bytes, uint32_t *out_first)
{
    if (n_stages == 0 || n_stages > n_units)
        return false;
    Chain chain = make_chain(arena, cost_s, bytes, link_s, may_cut, n_units);
    Range *ranges = ARENA_ARRAY(arena, Range, (size_t)chain.n + 1);
    uint32_t *path = ARENA_ARRAY(arena, uint32_t, (size_t)n_stages + 1);
    chain.cap_bytes = cap_bytes;
    double limit_s = find_limit(&chain, ranges, n_stages);
    bool found = false;
    /* The first pass is enough but for a limit that a path's dearest edge meets to the last bit. */
    for (double slack = SLACK; limit_s >= 0 && !found && slack < 1; slack *= 8)
    {
        set_limit(&chain, limit_s * (1 + slack));
        found = find_layers(&chain, n_stages, ranges) <= MAX_LAYERED ? most_even(&chain, n_stages, ranges, path)
                                                                     : even_enough(&chain, n_stages, path);
    }
    for (uint32_t s = 0; found && s <= n_stages; s++)
        out_first[s] = chain.unit[path[s]];
    return found;
}
