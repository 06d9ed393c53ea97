/* Plug-ins that cannot be used are refused with a sentence. usage: link_test STUB NOT_A_PLUG_IN */
#include "harness/test.h"
#include "runtime/comm.h"

#include <stdlib.h>
#include <string.h>

static const char *stub, *other;

static void refuses(const char *path, const char *text)
{
    Comm *comm = NULL;
    assert_int_equal(setenv("PTC_COMM_MPI", path, 1), 0);
    assert_int_equal(comm_create("mpi", NULL, &comm), STATUS_UNSUPPORTED);
    assert_null(comm);
    if (!strstr(status_detail(), text) || !strstr(status_detail(), path))
        fail_msg("'%s' does not say '%s' of '%s'", status_detail(), text, path);
}

static void no_file(void **state)
{
    (void)state;
    refuses("/nowhere/libptc_mpi.so", "built without it");
}

static void not_a_library(void **state)
{
    (void)state;
    refuses("/proc/self/cmdline", "cannot be loaded");
}

static void not_a_plug_in(void **state)
{
    (void)state;
    refuses(other, "lacks ptc_comm_link");
}

static void another_version(void **state)
{
    (void)state;
    refuses(stub, "interface 2, not 1");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_file),
        cmocka_unit_test(not_a_library),
        cmocka_unit_test(not_a_plug_in),
        cmocka_unit_test(another_version),
    };
    if (argc != 3)
        return 2;
    stub = argv[1];
    other = argv[2];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
