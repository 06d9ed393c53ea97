/* What the test program of several ranks shares: checks that name the rank, numbers that differ by rank. */
#ifndef PTC_TESTS_COMM_RANKS_H
#define PTC_TESTS_COMM_RANKS_H

#include "runtime/comm.h"

#include <stdio.h>
#include <stdlib.h>

extern Comm *world;
extern uint32_t rank, size;

#define FAIL(...)                                                                                                      \
    do                                                                                                                 \
    {                                                                                                                  \
        fprintf(stderr, "%s:%d: rank %u: ", __FILE__, __LINE__, rank);                                                 \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fprintf(stderr, "\n");                                                                                         \
        exit(1);                                                                                                       \
    } while (0)
#define CHECK(cond)                                                                                                    \
    do                                                                                                                 \
    {                                                                                                                  \
        if (!(cond))                                                                                                   \
            FAIL("expected %s", #cond);                                                                                \
    } while (0)
#define OK(call)                                                                                                       \
    do                                                                                                                 \
    {                                                                                                                  \
        if ((call) != STATUS_OK)                                                                                       \
            FAIL("%s: %s", #call, status_detail());                                                                    \
    } while (0)

/* Well mixed bits of the arguments. */
uint32_t hash3(uint32_t a, uint32_t b, uint32_t c);
/* An element of a rank's array: signs and magnitudes from 2^-12 to 2^12, so that the order of adding shows. */
float number(uint32_t of_rank, uint32_t salt, size_t i);
/* The sum over ranks [first, first + n) in the documented order. */
float expected_sum(const uint32_t *ranks, uint32_t n, uint32_t salt, size_t i);
void fill_bytes(uint8_t *bytes, size_t n, uint32_t seed);
bool bytes_are(const uint8_t *bytes, size_t n, uint32_t seed);
double now_s(void);
bool shares_memory(void);

void test_messages(void);
void test_sums(void);
void test_groups(void);
/* One rank misbehaves; writes what the others got to results_dir/rank-N. Does not return. */
_Noreturn void run_failure(const char *how, const char *where, const char *results_dir);

#endif
