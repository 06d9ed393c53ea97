/* What the tests of the data side share: a scratch folder, files from bytes, and "this fails and says so". */
#ifndef PTC_TESTS_DATA_TEST_H
#define PTC_TESTS_DATA_TEST_H

#include "base/status.h"
#include "harness/test.h"

#include <string.h>

/* Fails unless the status is OK; prints the detail. */
#define EXPECT_OK(expr)                                                                                                \
    do                                                                                                                 \
    {                                                                                                                  \
        if ((expr) != STATUS_OK)                                                                                       \
            fail_msg("%s: %s", #expr, status_detail());                                                                \
    } while (0)

/* Fails unless the status is `status` and the detail contains `part`. */
#define EXPECT_FAIL(expr, status, part) expect_fail((expr), (status), (part), __FILE__, __LINE__)
void expect_fail(Status got, Status status, const char *part, const char *file, int line);

/* cmocka setup and teardown: a fresh folder in *state, removed with all that is in it. */
int scratch_create(void **state);
int scratch_remove(void **state);

/* "FOLDER/name", in a static buffer of which there are eight in turn. */
const char *path_in(const char *folder, const char *name);
void write_bytes(const char *path, const void *bytes, size_t n_bytes);
/* The whole file, with a NUL after it; the caller frees it. NULL when it is not there. */
char *read_bytes(const char *path, size_t *out_n_bytes);

/* PTC_TEST_SEED or the clock; printed, so that a failure can be repeated. */
uint64_t test_seed(void);
/* The next number of a sequence: Philox over a counter. */
uint32_t random_next(uint64_t seed, uint64_t *counter);

#endif
