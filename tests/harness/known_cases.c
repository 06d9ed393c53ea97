/* Test cases with a known verdict, to test the test runner: `known_cases GROUP` runs one group. Not a test itself. */
#include "harness/test.h"

#include <stdlib.h>
#include <string.h>

static void good(void **state)
{
    (void)state;
    assert_int_equal(1, 1);
}

static void bad(void **state)
{
    (void)state;
    assert_int_equal(1, 2);
}

static void skipped(void **state)
{
    (void)state;
    TEST_SKIP("no <device> number %d", 7);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest pass[] = {cmocka_unit_test(good), cmocka_unit_test_setup(good, NULL)};
    const struct CMUnitTest fail[] = {cmocka_unit_test(good), cmocka_unit_test(bad), cmocka_unit_test(bad)};
    const struct CMUnitTest skip[] = {cmocka_unit_test(good), cmocka_unit_test(skipped)};
    const char *group = argc > 1 ? argv[1] : "";

    if (strcmp(group, "pass") == 0)
        return cmocka_run_group_tests(pass, NULL, NULL);
    if (strcmp(group, "fail") == 0)
        return cmocka_run_group_tests(fail, NULL, NULL);
    if (strcmp(group, "skip") == 0)
        return cmocka_run_group_tests(skip, NULL, NULL);
    if (strcmp(group, "liar") == 0)
    {
        (void)cmocka_run_group_tests(fail, NULL, NULL);
        return 0;
    }
    if (strcmp(group, "crash") == 0)
        abort();
    fprintf(stderr, "usage: known_cases pass|fail|skip|liar|crash\n");
    return 2;
}
