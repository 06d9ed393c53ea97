/* Runs as several ranks under mpirun: `comm_ranks good` checks all that works, `comm_ranks fail HOW WHERE DIR` lets one
 * rank fail. usage: see ranks.sh */
#include "ranks.h"

#include <string.h>
#include <time.h>

Comm *world;
uint32_t rank, size;

uint32_t hash3(uint32_t a, uint32_t b, uint32_t c)
{
    uint64_t x =
        (uint64_t)a * 0x9E3779B97F4A7C15u ^ (uint64_t)b * 0xC2B2AE3D27D4EB4Fu ^ (uint64_t)c * 0x165667B19E3779F9u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return (uint32_t)x;
}

/* A million of them for a sum: the bits are put together, without a product. */
float number(uint32_t of_rank, uint32_t salt, size_t i)
{
    const uint32_t bits = hash3(of_rank + 1, salt, (uint32_t)i), exponent = 127 - 12 + (bits & 31) % 25;
    const uint32_t whole = (bits & 256) << 23 | exponent << 23 | bits >> 9;
    float f;
    memcpy(&f, &whole, sizeof f);
    return f;
}

float expected_sum(const uint32_t *ranks, uint32_t n, uint32_t salt, size_t i)
{
    if (n == 1)
        return number(ranks[0], salt, i);
    uint32_t left = 1;
    while (left * 2 < n)
        left *= 2;
    float a = expected_sum(ranks, left, salt, i), b = expected_sum(ranks + left, n - left, salt, i);
    return a + b;
}

void fill_bytes(uint8_t *bytes, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(seed * 2654435761u + i * 31 + (i >> 8));
}

bool bytes_are(const uint8_t *bytes, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != (uint8_t)(seed * 2654435761u + i * 31 + (i >> 8)))
            return false;
    return true;
}

double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool shares_memory(void)
{
    const char *text = getenv("PTC_COMM_SHARED");
    return !text || *text == '1';
}

int main(int argc, char **argv)
{
    bool fails = argc == 5 && strcmp(argv[1], "fail") == 0;
    CommOptions options = {.timeout_s = fails ? 1.5 : 60, .dump_dir = fails ? argv[4] : NULL};
    if (comm_create("mpi", &options, &world) != STATUS_OK)
    {
        fprintf(stderr, "comm_create: %s\n", status_detail());
        return 1;
    }
    rank = comm_rank(world);
    size = comm_size(world);
    if (fails)
        run_failure(argv[2], argv[3], argv[4]);
    test_messages();
    test_sums();
    test_groups();
    comm_destroy(world);
    if (rank == 0)
        printf("%u ranks are good\n", size);
    return 0;
}
