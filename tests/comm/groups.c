/* Groups: who is in them, in which order; that their traffic does not mix. */
#include "ranks.h"

#include <string.h>

/* Sums over the group, next to a message with the same tag as everybody else's. */
static void use(Comm *group, uint32_t n_members, const uint32_t *members, uint32_t salt)
{
    float mine[500], sum[500];
    CommSlice slice = {mine, sum, 500};
    CHECK(comm_size(group) == n_members);
    for (uint32_t r = 0; r < n_members; r++)
        CHECK(comm_world_rank(group, r) == members[r]);
    CHECK(members[comm_rank(group)] == rank);
    for (uint32_t i = 0; i < 500; i++)
        mine[i] = number(rank, salt, i);
    OK(comm_all_reduce_start(group, 0, &slice, 1));
    uint32_t next = (comm_rank(group) + 1) % n_members, previous = (comm_rank(group) + n_members - 1) % n_members;
    uint32_t out[2] = {salt, rank}, in[2];
    OK(comm_send(group, next, 0, out, sizeof out));
    OK(comm_recv(group, previous, 0, in, sizeof in));
    CHECK(in[0] == salt && in[1] == members[previous]);
    OK(comm_bucket_wait(group, 0));
    for (uint32_t i = 0; i < 500; i++)
    {
        float want = expected_sum(members, n_members, salt, i);
        CHECK(memcmp(&sum[i], &want, sizeof want) == 0);
    }
    OK(comm_barrier(group));
}

/* A grid of two columns: rows, columns with the order turned round, the world in reverse, single ranks; all in use at
 * once, then a group of a group. */
static void test_grid(void)
{
    Comm *row, *column, *reverse, *alone, *part;
    OK(comm_split(world, rank / 2, rank, &row));
    OK(comm_split(world, rank % 2, size - rank, &column));
    OK(comm_split(world, 7, size - rank, &reverse));
    OK(comm_split(world, rank, 0, &alone));
    uint32_t members[16], n = 0;
    for (uint32_t round = 0; round < 3; round++)
    {
        n = 0;
        for (uint32_t r = 0; r < size; r++)
            if (r / 2 == rank / 2)
                members[n++] = r;
        use(row, n, members, 10 + round);
        n = 0;
        for (uint32_t r = size; r-- > 0;)
            if (r % 2 == rank % 2)
                members[n++] = r;
        use(column, n, members, 20 + round);
        n = 0;
        for (uint32_t r = size; r-- > 0;)
            members[n++] = r;
        use(reverse, n, members, 30 + round);
        use(alone, 1, &rank, 40 + round);
        n = 0;
        for (uint32_t r = 0; r < size; r++)
            members[n++] = r;
        use(world, n, members, 50 + round);
    }
    OK(comm_split(reverse, rank > 0, 0, &part)); /* equal keys: the order of reverse */
    n = 0;
    for (uint32_t r = size; r-- > 0;)
        if ((r > 0) == (rank > 0))
            members[n++] = r;
    use(part, n, members, 60);
    comm_destroy(part);
    comm_destroy(alone);
    comm_destroy(reverse);
    comm_destroy(column);
    comm_destroy(row);
}

/* Ranks of a group need not enter the first exchange at the same time, nor does a message wait for the receiver's group
 * to exist. */
static void test_many(void)
{
    for (uint32_t i = 0; i < 30; i++)
    {
        Comm *group;
        uint32_t in = 0;
        OK(comm_split(world, hash3(rank, i, 8) % 2, rank, &group));
        uint32_t next = (comm_rank(group) + 1) % comm_size(group);
        OK(comm_send(group, next, i, &i, sizeof i));
        OK(comm_recv(group, (comm_rank(group) + comm_size(group) - 1) % comm_size(group), i, &in, sizeof in));
        CHECK(in == i);
        comm_destroy(group);
    }
}

void test_groups(void)
{
    const char *hosts_of = getenv("PTC_COMM_SHARED");
    uint32_t per_host = hosts_of && *hosts_of >= '2' ? (uint32_t)atoi(hosts_of) : size,
             first = rank / per_host * per_host;
    CHECK(comm_local_rank(world) == rank - first);
    CHECK(comm_local_size(world) == (size - first < per_host ? size - first : per_host));
    for (uint32_t r = 0; r < size; r++)
        CHECK(*comm_host(world, r) && comm_world_rank(world, r) == r);
    test_grid();
    test_many();
}
