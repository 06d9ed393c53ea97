/* What every test program includes: cmocka with the headers it wants, and skips that say why.
 *
 * TEST_SKIP("reason") ends the current test case as skipped. The runner (tools/count-tests.awk) reads the printed
 * reason, counts skips by it, and never counts a skip as a pass. */
#ifndef PTC_TESTS_HARNESS_TEST_H
#define PTC_TESTS_HARNESS_TEST_H

/* cmocka.h needs these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#define TEST_SKIP(...)                                                                                                 \
    do                                                                                                                 \
    {                                                                                                                  \
        printf("SKIP: " __VA_ARGS__);                                                                                  \
        printf("\n");                                                                                                  \
        fflush(stdout);                                                                                                \
        skip();                                                                                                        \
    } while (0)

#endif
