/* What every test program includes: cmocka with the headers it wants, and skips that say why.
 *
 * TEST_SKIP("reason") ends the current test case as skipped. The runner (tools/count-tests.awk) reads the printed
 * reason, counts skips by it, and never counts a skip as a pass.
 *
 * test_is_thin() where PTC_TEST_BREADTH is `thin` (tests/CMakeLists.txt); TEST_IF_FULL() skips the case there. */
#ifndef PTC_TESTS_HARNESS_TEST_H
#define PTC_TESTS_HARNESS_TEST_H

/* cmocka.h needs these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_SKIP(...)                                                                                                 \
    do                                                                                                                 \
    {                                                                                                                  \
        printf("SKIP: " __VA_ARGS__);                                                                                  \
        printf("\n");                                                                                                  \
        fflush(stdout);                                                                                                \
        skip();                                                                                                        \
    } while (0)

#define TEST_IF_FULL()                                                                                                 \
    do                                                                                                                 \
    {                                                                                                                  \
        if (test_is_thin())                                                                                            \
            TEST_SKIP("left to the builds without sanitizers");                                                        \
    } while (0)

static inline int test_is_thin(void)
{
    const char *breadth = getenv("PTC_TEST_BREADTH");
    return breadth && strcmp(breadth, "thin") == 0;
}

#endif
