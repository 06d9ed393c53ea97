/* pipeline_cut against trying every cut, and against cuts that are known, up to thousands of units. */
#include "harness/test.h"
#include "passes/pipeline.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum
{
    MAX_UNITS = 10
};

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

typedef struct
{
    uint32_t n_units, n_stages;
    const double *cost_s, *link_s;
    const int64_t *bytes;
    const bool *may_cut;
    int64_t cap_bytes;
} Problem;

typedef struct
{
    double worst_s, squares;
} Value;

/* False when the cut breaks a rule. */
static bool judge(const Problem *p, const uint32_t *first, Value *out_value)
{
    *out_value = (Value){0};
    if (first[0] != 0 || first[p->n_stages] != p->n_units)
        return false;
    for (uint32_t s = 0; s < p->n_stages; s++)
    {
        uint32_t from = first[s], to = first[s + 1];
        double cost_s = 0;
        int64_t bytes = 0;
        if (from >= to || (to < p->n_units && p->may_cut && !p->may_cut[to - 1]))
            return false;
        for (uint32_t i = from; i < to; i++)
        {
            cost_s += p->cost_s[i];
            bytes += p->bytes ? p->bytes[i] : 0;
        }
        if (p->link_s)
            cost_s += (from ? p->link_s[from - 1] : 0) + (to < p->n_units ? p->link_s[to - 1] : 0);
        if (p->cap_bytes && bytes > p->cap_bytes)
            return false;
        out_value->worst_s = fmax(out_value->worst_s, cost_s);
        out_value->squares += cost_s * cost_s;
    }
    return true;
}

static bool is_better(Value a, Value b)
{
    if (fabs(a.worst_s - b.worst_s) > 1e-9 * b.worst_s)
        return a.worst_s < b.worst_s;
    return a.squares < b.squares * (1 - 1e-9);
}

static bool try_all(const Problem *p, Value *out_best)
{
    bool found = false;
    for (uint32_t mask = 0; mask < 1u << (p->n_units - 1); mask++)
    {
        uint32_t first[MAX_UNITS + 1] = {0}, n = 1;
        for (uint32_t i = 0; i + 1 < p->n_units; i++)
            if (mask >> i & 1)
                first[n++] = i + 1;
        first[n] = p->n_units;
        Value value;
        if (n != p->n_stages || !judge(p, first, &value) || (found && !is_better(value, *out_best)))
            continue;
        found = true;
        *out_best = value;
    }
    return found;
}

static bool cut(Arena *arena, const Problem *p, uint32_t *first)
{
    return pipeline_cut(arena, p->cost_s, p->bytes, p->link_s, p->may_cut, p->n_units, p->n_stages, p->cap_bytes,
                        first);
}

static void test_all_cuts(void **state)
{
    (void)state;
    uint32_t n_possible = 0, n_not = 0;
    for (uint32_t seed = 1; seed <= 3000; seed++)
    {
        uint32_t random = seed * 2654435761u, n = 1 + next_random(&random) % MAX_UNITS;
        /* Few values make many ties; large links make fewer stages cheaper; sums of real numbers are rounded. */
        uint32_t most = (uint32_t[]){1, 3, 20, 1000}[next_random(&random) % 4];
        uint32_t most_link = (uint32_t[]){0, 1, 10, 50}[next_random(&random) % 4];
        double unit_s = next_random(&random) % 2 ? 1 : 0.1;
        double cost_s[MAX_UNITS], link_s[MAX_UNITS];
        int64_t bytes[MAX_UNITS];
        bool may_cut[MAX_UNITS];
        for (uint32_t i = 0; i < n; i++)
        {
            cost_s[i] = unit_s * (next_random(&random) % (most + 1));
            link_s[i] = unit_s * (next_random(&random) % (most_link + 1));
            bytes[i] = next_random(&random) % 10;
            may_cut[i] = next_random(&random) % 4 > 0;
        }
        Problem p = {.n_units = n, .cost_s = cost_s};
        uint32_t with = next_random(&random);
        p.link_s = with & 1 ? link_s : NULL;
        p.may_cut = with & 2 ? may_cut : NULL;
        p.bytes = bytes;
        p.cap_bytes = with & 4 ? 8 + next_random(&random) % 30 : 0;
        for (p.n_stages = 1; p.n_stages <= n + 1; p.n_stages++)
        {
            Arena *arena = arena_create();
            uint32_t first[MAX_UNITS + 2];
            Value best = {0}, value;
            bool possible = try_all(&p, &best), found = cut(arena, &p, first);
            if (possible != found)
                fail_msg("seed %u, %u stages: %s", seed, p.n_stages, found ? "found what is not" : "not found");
            if (found && (!judge(&p, first, &value) || is_better(best, value) || is_better(value, best)))
                fail_msg("seed %u, %u stages: %g and %g, not %g and %g", seed, p.n_stages, value.worst_s, value.squares,
                         best.worst_s, best.squares);
            *(found ? &n_possible : &n_not) += 1;
            arena_destroy(arena);
        }
    }
    printf("%u cuts, %u impossible\n", n_possible, n_not);
    assert_true(n_possible > 5000 && n_not > 3000);
}

static void test_known(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    double ones[7] = {1, 1, 1, 1, 1, 1, 1}, links[7] = {0, 0, 5, 0, 0, 0, 0};
    int64_t bytes[7] = {1, 1, 1, 1, 1, 1, 1};
    bool may_cut[7] = {true, true, true, true, true, true, true};
    uint32_t first[8], n_runs[4] = {0};
    Value value;
    /* Seven on four: three runs of two and one of one, never three and so on. */
    Problem p = {.n_units = 7, .n_stages = 4, .cost_s = ones, .bytes = bytes};
    assert_true(cut(arena, &p, first));
    assert_true(judge(&p, first, &value));
    for (uint32_t s = 0; s < 4; s++)
        n_runs[first[s + 1] - first[s]]++;
    assert_int_equal(n_runs[1], 1);
    assert_int_equal(n_runs[2], 3);
    assert_float_equal(value.squares, 13, 1e-9);
    /* A checker that takes anything checks nothing. */
    const uint32_t uneven[] = {0, 1, 2, 3, 7}, empty[] = {0, 2, 2, 4, 7}, small[] = {0, 2, 4, 5, 6};
    Value worse;
    assert_true(judge(&p, uneven, &worse));
    assert_true(is_better(value, worse));
    assert_false(judge(&p, empty, &worse));
    assert_false(judge(&p, small, &worse));
    /* Of equals the most even: 3 alone makes the maximum, the rest is 2 and 2, not 1 and 3. */
    double tied[] = {1, 1, 1, 1, 3};
    p = (Problem){.n_units = 5, .n_stages = 3, .cost_s = tied};
    assert_true(cut(arena, &p, first));
    assert_int_equal(first[1], 2);
    assert_int_equal(first[2], 4);
    /* A slow link is not cut; a cap forbids what time alone would take. */
    p = (Problem){.n_units = 7, .n_stages = 2, .cost_s = ones, .link_s = links, .bytes = bytes};
    assert_true(cut(arena, &p, first));
    assert_int_equal(first[1], 4);
    p.cap_bytes = 3;
    assert_false(cut(arena, &p, first));
    p.cap_bytes = 5;
    assert_true(cut(arena, &p, first));
    may_cut[3] = false;
    p.may_cut = may_cut;
    assert_true(cut(arena, &p, first));
    assert_true(first[1] == 2 || first[1] == 5);
    p.cap_bytes = 4;
    assert_true(cut(arena, &p, first)); /* only the slow link is left */
    assert_int_equal(first[1], 3);
    /* More stages than units, none of either. */
    p = (Problem){.n_units = 7, .n_stages = 8, .cost_s = ones};
    assert_false(cut(arena, &p, first));
    p.n_stages = 0;
    assert_false(cut(arena, &p, first));
    p = (Problem){.n_stages = 1};
    assert_false(cut(arena, &p, first));
    arena_destroy(arena);
}

/* The same cut, one with a unit that outweighs all (so that nearly every cut is within the limit, and the layered
 * search is too long), one with links. What is known: lower bounds. */
static void test_size(void **state)
{
    (void)state;
    enum
    {
        N = 3000,
        K = 700
    };
    for (uint32_t kind = 0; kind < 5; kind++)
    {
        Arena *arena = arena_create();
        double *cost_s = ARENA_ARRAY(arena, double, N), *link_s = ARENA_ARRAY(arena, double, N), sum_s = 0;
        int64_t *bytes = ARENA_ARRAY(arena, int64_t, N);
        uint32_t *first = ARENA_ARRAY(arena, uint32_t, K + 1), random = 7;
        for (uint32_t i = 0; i < N; i++)
        {
            cost_s[i] = kind < 2 ? 1 : 1 + next_random(&random) % 100 / 10.0;
            link_s[i] = kind == 2 || kind == 4 ? next_random(&random) % 100 / 10.0 : 0;
            bytes[i] = next_random(&random) % 100;
            sum_s += cost_s[i];
        }
        if (kind == 1 || kind == 4)
            cost_s[N / 3] = N;
        clock_t start = clock();
        Problem p = {N, K, cost_s, link_s, bytes, NULL, kind == 3 ? 500 : 0};
        Value value;
        assert_true(cut(arena, &p, first));
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        assert_true(judge(&p, first, &value));
        printf("kind %u: %.2f s, worst %g, even share %g, squares %g\n", kind, seconds, value.worst_s, sum_s / K,
               value.squares);
        assert_true(seconds < 60);
        if (kind == 0) /* 3000 = 200 * 5 + 500 * 4 */
        {
            assert_float_equal(value.worst_s, 5, 1e-9);
            assert_float_equal(value.squares, 200 * 25 + 500 * 16, 1e-6);
        }
        if (kind == 1) /* 2999 ones on 699 stages, the heavy one alone; the two sides share stages evenly */
        {
            assert_float_equal(value.worst_s, N, 1e-6);
            assert_float_equal(value.squares, (double)N * N + 203 * 25 + 496 * 16, 1e-3);
        }
        arena_destroy(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_cuts),
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
