/* All-reduces, against sums that every rank computes for itself, to the bit. */
#include "ranks.h"

#include <string.h>

static const size_t SIZES[] = {0, 1, 15, 16, 17, 1000, 1023, 1024, 1025, 4096, 100003, 262144, 262145, 700001, 1200000};
enum
{
    N_SIZES = sizeof SIZES / sizeof *SIZES,
    MOST_ELEMS = 1200000
};

static void fill(float *out, size_t n, uint32_t salt)
{
    for (size_t i = 0; i < n; i++)
        out[i] = number(rank, salt, i);
}

static void check(const float *sum, size_t n, const uint32_t *ranks, uint32_t n_ranks, uint32_t salt)
{
    for (size_t i = 0; i<n; i += n> 50000 ? 7 : 1)
    {
        float want = expected_sum(ranks, n_ranks, salt, i);
        if (memcmp(&sum[i], &want, sizeof want) != 0)
            FAIL("element %zu of %zu: %a, not %a", i, n, (double)sum[i], (double)want);
    }
}

static const uint32_t ALL[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static void test_sizes(void)
{
    float *a = malloc(MOST_ELEMS * sizeof *a), *b = malloc((MOST_ELEMS + 1) * sizeof *b);
    for (uint32_t s = 0; s < N_SIZES; s++)
    {
        size_t n = SIZES[s];
        CommSlice slice = {a, b, n};
        fill(a, n, s);
        memset(b, 0x7f, (n + 1) * sizeof *b);
        float beyond = b[n];
        OK(comm_all_reduce_start(world, s, &slice, 1));
        memset(a, 0, n * sizeof *a); /* it was copied */
        OK(comm_bucket_wait(world, s));
        check(b, n, ALL, size, s);
        CHECK(memcmp(&b[n], &beyond, sizeof beyond) == 0);
    }
    free(a);
    free(b);
}

/* Many slices of odd sizes, in place; dst is only written by the wait. */
static void test_slices(void)
{
    enum
    {
        N_SLICES = 300
    };
    CommSlice slices[N_SLICES];
    size_t n_elems = 0;
    for (uint32_t i = 0; i < N_SLICES; i++)
        n_elems += slices[i].n_elems = hash3(i, 5, 5) % (i % 50 == 49 ? 300000 : 700);
    float *all = malloc(n_elems * sizeof *all), *before = malloc(n_elems * sizeof *before), *at = all;
    for (uint32_t i = 0; i < N_SLICES; at += slices[i++].n_elems)
        slices[i].src = slices[i].dst = at;
    fill(all, n_elems, 77);
    memcpy(before, all, n_elems * sizeof *all);
    OK(comm_all_reduce_start(world, 4095, slices, N_SLICES));
    for (int i = 0; i < 20; i++)
        OK(comm_poll(world));
    CHECK(memcmp(all, before, n_elems * sizeof *all) == 0);
    OK(comm_bucket_wait(world, 4095));
    check(all, n_elems, ALL, size, 77);
    free(all);
    free(before);
}

/* Buckets under way at once, with messages and polls between, waited for in other orders, again and again. */
static void test_overlap(void)
{
    enum
    {
        N_BUCKETS = 24,
        N_ELEMS = 30000
    };
    float *in = malloc(N_ELEMS * sizeof *in), *out = malloc(N_BUCKETS * N_ELEMS * sizeof *out);
    uint32_t next = (rank + 1) % size, previous = (rank + size - 1) % size;
    for (uint32_t round = 0; round < 6; round++)
    {
        for (uint32_t i = 0; i < N_BUCKETS; i++)
        {
            uint32_t bucket = (i * 7 + round) % N_BUCKETS, salt = round * 100 + bucket, got;
            size_t n = N_ELEMS - bucket * 1000 - round;
            CommSlice parts[2] = {{in, out + bucket * N_ELEMS, n / 3},
                                  {in + n / 3, out + bucket * N_ELEMS + n / 3, n - n / 3}};
            fill(in, n, salt);
            OK(comm_all_reduce_start(world, bucket, parts, 2));
            OK(comm_send(world, next, 5, &salt, sizeof salt));
            if (hash3(rank, i, round) % 3 == 0)
                OK(comm_poll(world));
            OK(comm_recv(world, previous, 5, &got, sizeof got));
            CHECK(got == salt);
        }
        for (uint32_t i = 0; i < N_BUCKETS; i++)
        {
            uint32_t bucket = (i * 5 + rank * 3) % N_BUCKETS; /* not the same order on all ranks */
            bucket = bucket < N_BUCKETS ? bucket : 0;
            OK(comm_bucket_wait(world, bucket));
            check(out + bucket * N_ELEMS, N_ELEMS - bucket * 1000 - round, ALL, size, round * 100 + bucket);
        }
    }
    free(in);
    free(out);
}

/* ---- in memory that the ranks took */

enum
{
    MOST_PARTS = 5,
    GAP = 3, /* elements that nobody may touch, before each part and after the last */
    AREA_ELEMS = MOST_ELEMS + (MOST_PARTS + 1) * GAP
};

typedef struct
{
    float *area[2]; /* a part's numbers are in the first one, its sum in the first or in the second one */
    CommSlice parts[MOST_PARTS];
    uint32_t n_parts;
    size_t n_elems;
    uint32_t salt, root;
    enum
    {
        TO_ALL,   /* the sum */
        TO_ROOT,  /* the sum */
        FROM_ROOT /* its numbers */
    } way;
} Job;

/* Cuts n numbers in parts in this rank's own way. */
static void lay_out(Job *job, size_t n, uint32_t salt)
{
    size_t at = GAP, begin = 0;
    job->n_elems = n;
    job->salt = salt;
    job->n_parts = 1 + hash3(rank, salt, 1) % MOST_PARTS;
    for (int k = 0; k < 2; k++)
        memset(job->area[k], 0x7f, (n + (MOST_PARTS + 1) * GAP) * sizeof(float));
    for (uint32_t i = 0; i < job->n_parts; i++)
    {
        const size_t n_left = n - begin,
                     n_part = i + 1 == job->n_parts ? n_left : hash3(rank, salt, i + 2) % (n_left + 1);
        job->parts[i] = (CommSlice){job->area[0] + at, job->area[(i + rank) % 3 == 1] + at, n_part};
        for (size_t e = 0; e < n_part; e++)
            job->area[0][at + e] = number(rank, salt, begin + e);
        begin += n_part;
        at += n_part + GAP;
    }
}

static void start_job(const Job *job, uint32_t bucket)
{
    if (job->way == TO_ALL)
        OK(comm_all_reduce_start(world, bucket, job->parts, job->n_parts));
    else if (job->way == TO_ROOT)
        OK(comm_reduce_start(world, bucket, job->root, job->parts, job->n_parts));
    else
        OK(comm_bcast_start(world, bucket, job->root, job->parts, job->n_parts));
}

/* What is to be in dst: this rank's own number, in place, where no result is for it. */
static float expected(const Job *job, const CommSlice *part, size_t i, float untouched)
{
    if (job->way == FROM_ROOT && rank != job->root)
        return number(job->root, job->salt, i);
    if (job->way == TO_ALL || (job->way == TO_ROOT && rank == job->root))
        return expected_sum(ALL, size, job->salt, i);
    return part->dst == part->src ? number(rank, job->salt, i) : untouched;
}

static void check_job(const Job *job)
{
    float untouched;
    size_t begin = 0;
    memset(&untouched, 0x7f, sizeof untouched);
    for (uint32_t i = 0; i < job->n_parts; i++)
    {
        const CommSlice *part = &job->parts[i];
        for (size_t e = 0; e<part->n_elems; e += job->n_elems> 50000 ? 7 : 1)
        {
            const float want = expected(job, part, begin + e, untouched), mine = number(rank, job->salt, begin + e);
            if (memcmp(&part->dst[e], &want, sizeof want) != 0)
                FAIL("element %zu of %zu: %a, not %a", begin + e, job->n_elems, (double)part->dst[e], (double)want);
            CHECK(part->dst == part->src || memcmp(&part->src[e], &mine, sizeof mine) == 0);
        }
        for (int k = 1; k <= GAP; k++)
        {
            CHECK(memcmp(part->dst - k, &untouched, sizeof untouched) == 0);
            CHECK(memcmp(part->dst + part->n_elems + k - 1, &untouched, sizeof untouched) == 0);
        }
        begin += part->n_elems;
    }
}

/* Where this rank's numbers are, by the way of mixing: everybody's in memory taken; the first rank's not; only the last
 * rank's; the results of rank 1 elsewhere. */
static bool takes(uint32_t mix, int area)
{
    return mix == 0 || (mix == 1 && rank != 0) || (mix == 2 && rank == size - 1) || (mix == 3 && (rank != 1 || !area));
}

/* What was given back, in parts, is taken again, empty. */
static void give_back(void **memories, uint32_t n)
{
    const size_t size_bytes = AREA_ELEMS * sizeof(float), part_bytes = size_bytes / 3 & ~(size_t)4095;
    void *again;
    for (uint32_t i = 0; i < n; i++)
    {
        char *at = memories[i];
        if (!at)
            continue;
        comm_memory_give(world, at, part_bytes);
        comm_memory_give(world, at + 2 * part_bytes, size_bytes - 2 * part_bytes);
        comm_memory_give(world, at + part_bytes, part_bytes);
    }
    OK(comm_memory_take(world, AREA_ELEMS * sizeof(float), &again));
    bool found = false;
    for (uint32_t i = 0; i < n; i++)
        found = found || again == memories[i];
    CHECK(found);
    for (size_t e = 0; again && e < AREA_ELEMS; e += 500)
        CHECK(((const float *)again)[e] == 0);
    comm_memory_give(world, again, AREA_ELEMS * sizeof(float));
}

/* What others have in memory is still there when this process has forgotten it. */
static void test_forgetting(void)
{
    void *memory;
    float *got = malloc(AREA_ELEMS * sizeof(float));
    OK(comm_memory_take(world, AREA_ELEMS * sizeof(float), &memory));
    float *mine = memory ? memory : malloc(AREA_ELEMS * sizeof(float));
    for (size_t e = 0; e < AREA_ELEMS; e++)
        mine[e] = number(rank, 17, e);
    for (int round = 0; round < 2; round++)
    {
        const CommSlice slice = {.src = mine, .dst = rank ? got : mine, .n_elems = AREA_ELEMS};
        memset(got, 0, AREA_ELEMS * sizeof(float));
        OK(comm_bcast_start(world, 0, 0, &slice, 1));
        OK(comm_bucket_wait(world, 0));
        for (size_t e = 0; rank && e < AREA_ELEMS; e += 500)
            CHECK(got[e] == number(0, 17, e));
        comm_memory_forget(world);
    }
    OK(comm_barrier(world));
    comm_memory_give(world, memory, AREA_ELEMS * sizeof(float));
    if (!memory)
        free(mine);
    free(got);
}

static void test_places(void)
{
    enum
    {
        N_MIXES = 4,
        N_JOBS = 4 /* under way at once */
    };
    float *taken[2 * N_JOBS], *plain[2 * N_JOBS];
    void *memories[2 * N_JOBS];
    for (int i = 0; i < 2 * N_JOBS; i++)
    {
        OK(comm_memory_take(world, AREA_ELEMS * sizeof(float), &memories[i]));
        const void *memory = memories[i];
        CHECK((memory != NULL) == shares_memory());
        plain[i] = malloc(AREA_ELEMS * sizeof(float));
        taken[i] = memory ? memories[i] : plain[i];
        for (size_t e = 0; e < AREA_ELEMS; e += 500)
            CHECK(!memory || taken[i][e] == 0);
    }
    Job jobs[N_JOBS];
    for (uint32_t round = 0; round < N_MIXES * N_SIZES; round++)
    {
        for (uint32_t i = 0; i < N_JOBS; i++)
        {
            for (int k = 0; k < 2; k++)
                jobs[i].area[k] = (takes(round % N_MIXES, k) ? taken : plain)[2 * i + (uint32_t)k];
            lay_out(&jobs[i], SIZES[(round / N_MIXES + i) % N_SIZES], 1000 + round * N_JOBS + i);
            jobs[i].way = (round / N_MIXES + i) % 3;
            jobs[i].root = (round + i) % size;
            start_job(&jobs[i], i);
            if (hash3(rank, i, round) % 2 == 0)
                OK(comm_poll(world));
        }
        for (uint32_t i = 0; i < N_JOBS; i++)
        {
            OK(comm_bucket_wait(world, (i + round) % N_JOBS));
            check_job(&jobs[(i + round) % N_JOBS]);
        }
    }
    OK(comm_barrier(world));
    give_back(memories, 2 * N_JOBS);
    for (int i = 0; i < 2 * N_JOBS; i++)
        free(plain[i]);
}

static void test_control(void)
{
    double values[3] = {0.1 * (rank + 1), -(double)rank, rank == size - 1 ? 1e300 : 1e-300}, most[3];
    memcpy(most, values, sizeof most);
    OK(comm_all_reduce_f64(world, values, 3, COMM_SUM));
    OK(comm_all_reduce_f64(world, most, 3, COMM_MAX));
    double want[3] = {0};
    for (uint32_t r = 0; r < size; r++)
    {
        double theirs[3] = {0.1 * (r + 1), -(double)r, r == size - 1 ? 1e300 : 1e-300};
        for (int i = 0; i < 3; i++)
            want[i] = r == 0 ? theirs[i] : want[i] + theirs[i];
    }
    CHECK(memcmp(values, want, sizeof want) == 0);
    CHECK(most[0] == 0.1 * size && most[1] == 0 && most[2] == 1e300);
    double nan = rank == size / 2 ? 0.0 / 0.0 : 5;
    OK(comm_all_reduce_f64(world, &nan, 1, COMM_MAX));
    CHECK(nan != nan);
    for (uint32_t root = 0; root < size; root++)
        for (size_t n = 0; n < 12000000; n = n * 10 + 3)
        {
            uint8_t *bytes = calloc(n + 1, 1);
            if (rank == root)
                fill_bytes(bytes, n, root + 50);
            OK(comm_broadcast(world, root, bytes, n));
            CHECK(bytes_are(bytes, n, root + 50));
            free(bytes);
        }
    uint32_t mine[2] = {rank, hash3(rank, 1, 1)}, all[32];
    OK(comm_all_gather(world, mine, sizeof mine, all));
    for (uint32_t r = 0; r < size; r++)
        CHECK(all[2 * r] == r && all[2 * r + 1] == hash3(r, 1, 1));
    OK(comm_all_gather(world, NULL, 0, all));
    for (int i = 0; i < 50; i++)
        OK(comm_barrier(world));
}

void test_sums(void)
{
    test_sizes();
    test_slices();
    test_overlap();
    test_places();
    test_forgetting();
    test_control();
}
