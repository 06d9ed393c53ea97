/* The back end of one rank, and what is the same for all: names, failures that are final. */
#include "harness/test.h"
#include "runtime/comm.h"

#include <string.h>

static void creates(void **state)
{
    (void)state;
    Comm *comm = NULL;
    assert_int_equal(comm_create("smoke", NULL, &comm), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "smoke"));
    assert_non_null(strstr(status_detail(), "self"));
    assert_int_equal(comm_create("self", NULL, &comm), STATUS_OK);
    assert_int_equal(comm_rank(comm), 0);
    assert_int_equal(comm_size(comm), 1);
    assert_int_equal(comm_local_size(comm), 1);
    assert_int_equal(comm_local_rank(comm), 0);
    assert_true(*comm_host(comm, 0));
    comm_destroy(comm);
    comm_destroy(NULL);
}

static void sends_to_itself(void **state)
{
    (void)state;
    Comm *comm;
    assert_int_equal(comm_create("self", NULL, &comm), STATUS_OK);
    for (int i = 0; i < COMM_MAX_IN_FLIGHT; i++)
        assert_int_equal(comm_send(comm, 0, 7, &i, sizeof i), STATUS_OK);
    assert_int_equal(comm_send(comm, 0, 8, NULL, 0), STATUS_OK);
    assert_int_equal(comm_recv(comm, 0, 8, NULL, 0), STATUS_OK);
    for (int i = 0, got; i < COMM_MAX_IN_FLIGHT; i++)
    {
        assert_int_equal(comm_recv(comm, 0, 7, &got, sizeof got), STATUS_OK);
        assert_int_equal(got, i);
    }
    CommCounters counters = comm_counters(comm);
    assert_int_equal(counters.sent_bytes, COMM_MAX_IN_FLIGHT * sizeof(int));
    assert_int_equal(counters.received_bytes, counters.sent_bytes);
    /* left behind: freed */
    assert_int_equal(comm_send(comm, 0, 9, &counters, sizeof counters), STATUS_OK);
    comm_destroy(comm);
}

static void fails_for_good(void **state)
{
    (void)state;
    Comm *comm;
    int number = 1;
    assert_int_equal(comm_create("self", NULL, &comm), STATUS_OK);
    comm_set_place(comm, "add %3 loc(a.xml:1:2)", 5, -1);
    assert_int_equal(comm_recv(comm, 0, 7, &number, sizeof number), STATUS_TIMEOUT);
    assert_string_equal(status_detail(),
                        "rank 0 would wait for itself: recv tag 7, 4 bytes, at add %3 loc(a.xml:1:2), step 5");
    status_clear();
    assert_int_equal(comm_send(comm, 0, 7, &number, sizeof number), STATUS_TIMEOUT);
    assert_non_null(strstr(status_detail(), "recv tag 7"));
    comm_destroy(comm);

    assert_int_equal(comm_create("self", NULL, &comm), STATUS_OK);
    assert_int_equal(comm_send(comm, 0, 1, &number, sizeof number), STATUS_OK);
    assert_int_equal(comm_recv(comm, 0, 1, &number, 3), STATUS_IO);
    comm_destroy(comm);
}

static void sums(void **state)
{
    (void)state;
    Comm *comm, *group;
    assert_int_equal(comm_create("self", NULL, &comm), STATUS_OK);
    assert_int_equal(comm_split(comm, 3, 1, &group), STATUS_OK);
    float a[5] = {1, 2, 3, 4, 5}, b[5] = {0};
    void *memory = a;
    assert_int_equal(comm_memory_take(group, 100, &memory), STATUS_OK);
    assert_null(memory); /* it shares with nobody */
    const CommSlice slices[] = {{a, b, 2}, {a + 2, a + 2, 0}, {a + 2, b + 2, 3}};
    for (int round = 0; round < 3; round++)
    {
        a[0] = (float)round;
        assert_int_equal(comm_all_reduce_start(group, 4, slices, 3), STATUS_OK);
        a[0] = -1;
        assert_int_equal(comm_poll(comm), STATUS_OK);
        assert_int_equal(comm_bucket_wait(group, 4), STATUS_OK);
        assert_true(b[0] == (float)round && b[1] == 2 && b[4] == 5);
    }
    assert_int_equal(comm_reduce_start(group, 4, 0, slices, 3), STATUS_OK);
    assert_int_equal(comm_bucket_wait(group, 4), STATUS_OK);
    assert_true(b[0] == -1 && b[4] == 5);
    b[0] = 7;
    assert_int_equal(comm_bcast_start(group, 4, 0, slices, 3), STATUS_OK);
    assert_int_equal(comm_bucket_wait(group, 4), STATUS_OK);
    assert_true(b[0] == 7); /* nobody sends the root its numbers */
    double value = 3;
    assert_int_equal(comm_all_reduce_f64(comm, &value, 1, COMM_SUM), STATUS_OK);
    assert_int_equal(comm_all_reduce_f64(comm, &value, 1, COMM_MAX), STATUS_OK);
    assert_true(value == 3);
    assert_int_equal(comm_barrier(group), STATUS_OK);
    assert_int_equal(comm_broadcast(group, 0, &value, sizeof value), STATUS_OK);
    double all = 0;
    assert_int_equal(comm_all_gather(group, &value, sizeof value, &all), STATUS_OK);
    assert_true(all == 3);
    assert_int_equal(comm_counters(comm).reduced_bytes, 5 * sizeof a);
    comm_destroy(group);
    comm_destroy(comm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creates),
        cmocka_unit_test(sends_to_itself),
        cmocka_unit_test(fails_for_good),
        cmocka_unit_test(sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
