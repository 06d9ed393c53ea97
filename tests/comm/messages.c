/* Point to point: order, sizes, tags, random traffic, the bound on messages in flight. */
#include "ranks.h"

#include <string.h>
#include <unistd.h>

static const size_t SIZES[] = {
    0,    1,    2,    3,    7,     63,     64,     65,     191,    192,     193,           4071,   4072,
    4073, 4095, 4096, 4097, 65536, 262143, 262144, 262145, 262146, 1 << 20, (1 << 20) + 3, 5000001};
enum
{
    N_SIZES = sizeof SIZES / sizeof *SIZES,
    MOST_BYTES = 5000001
};

static void test_order(void)
{
    uint32_t next = (rank + 1) % size, previous = (rank + size - 1) % size;
    for (uint32_t i = 0; i < 200; i++)
    {
        uint32_t mine[2] = {rank, i}, got[2];
        OK(comm_send(world, next, 1, mine, sizeof mine));
        OK(comm_send(world, next, 2, mine, sizeof mine));
        if (i % 4 != 3)
            continue;
        for (uint32_t tag = 2; tag >= 1; tag--)
            for (uint32_t k = i - 3; k <= i; k++)
            {
                OK(comm_recv(world, previous, tag, got, sizeof got));
                CHECK(got[0] == previous && got[1] == k);
            }
    }
}

/* Every size between every two ranks, a rank and itself among them, at odd addresses too. */
static void test_sizes(void)
{
    uint8_t *out = malloc(MOST_BYTES + 1), *in = malloc(MOST_BYTES + 2);
    for (uint32_t s = 0; s < N_SIZES; s++)
        for (uint32_t step = 0; step < size; step++)
        {
            uint32_t to = (rank + step) % size, from = (rank + size - step) % size;
            fill_bytes(out + 1, SIZES[s], hash3(rank, to, s));
            in[SIZES[s] + 1] = 0xA5;
            OK(comm_send(world, to, s, out + 1, SIZES[s]));
            OK(comm_recv(world, from, s, in + 1, SIZES[s]));
            CHECK(bytes_are(in + 1, SIZES[s], hash3(from, rank, s)));
            CHECK(in[SIZES[s] + 1] == 0xA5);
        }
    free(out);
    free(in);
}

/* More tags than a ring of announcements has slots, sent by all before anybody receives, taken in reverse. */
static void test_tags(void)
{
    enum
    {
        N_TAGS = 5000
    };
    uint32_t next = (rank + 1) % size, previous = (rank + size - 1) % size, got[3];
    for (uint32_t i = 0; i < N_TAGS; i++)
    {
        uint32_t tag = i * 209 % (1 << 20), mine[3] = {rank, tag, i};
        OK(comm_send(world, next, tag, mine, sizeof mine));
    }
    for (uint32_t i = N_TAGS; i-- > 0;)
    {
        uint32_t tag = i * 209 % (1 << 20);
        OK(comm_recv(world, previous, tag, got, sizeof got));
        CHECK(got[0] == previous && got[1] == tag && got[2] == i);
    }
}

/* A list of sends and receives that all ranks know; each carries out its own in order, so there is always one that can
 * go on. */
typedef struct
{
    uint32_t from, to, tag, id;
    size_t n_bytes;
} Message;

static void receive(const Message *m, uint8_t *buffer)
{
    if (m->to != rank)
        return;
    OK(comm_recv(world, m->from, m->tag, buffer, m->n_bytes));
    CHECK(bytes_are(buffer, m->n_bytes, m->id));
}

static void test_random(uint32_t seed)
{
    enum
    {
        N_MESSAGES = 2000,
        N_OPEN = 64,
        N_TAGS = 5
    };
    Message open[N_OPEN];
    uint32_t n_open = 0;
    uint8_t *buffer = malloc(MOST_BYTES);
    for (uint32_t i = 0; i < N_MESSAGES; i++)
    {
        uint32_t h = hash3(seed, i, 0), kind = hash3(seed, i, 1) % 100;
        Message m = {.from = h % size, .to = (h >> 8) % size, .tag = (h >> 16) % N_TAGS, .id = h};
        m.n_bytes = hash3(seed, i, 2) % (kind < 70 ? 200 : kind < 95 ? 20000 : 700000);
        if (m.from == rank)
        {
            fill_bytes(buffer, m.n_bytes, m.id);
            OK(comm_send(world, m.to, m.tag, buffer, m.n_bytes));
        }
        open[n_open++] = m;
        /* a channel that is full, or a full list, makes its oldest message be taken now */
        uint32_t n_same = 0;
        for (uint32_t k = 0; k < n_open; k++)
            n_same += open[k].from == m.from && open[k].to == m.to && open[k].tag == m.tag;
        while (n_open == N_OPEN || n_same == COMM_MAX_IN_FLIGHT || (n_open > 0 && hash3(seed, i, n_open + 3) % 3 == 0))
        {
            uint32_t at = 0;
            if (n_same == COMM_MAX_IN_FLIGHT)
                while (open[at].from != m.from || open[at].to != m.to || open[at].tag != m.tag)
                    at++;
            receive(&open[at], buffer);
            n_same -= open[at].from == m.from && open[at].to == m.to && open[at].tag == m.tag;
            memmove(open + at, open + at + 1, (--n_open - at) * sizeof *open);
        }
    }
    for (uint32_t k = 0; k < n_open; k++)
        receive(&open[k], buffer);
    free(buffer);
}

/* COMM_MAX_IN_FLIGHT sends return although nobody receives; one more waits until the first is taken. */
static void test_in_flight(void)
{
    uint8_t bytes[1000] = {0};
    OK(comm_barrier(world));
    if (size < 2 || rank > 1)
        return;
    if (rank == 0)
    {
        double start = now_s();
        for (uint32_t i = 0; i < COMM_MAX_IN_FLIGHT; i++)
            OK(comm_send(world, 1, 9, bytes, sizeof bytes));
        CHECK(now_s() - start < 0.3);
        double wait_s = comm_counters(world).wait_s;
        OK(comm_send(world, 1, 9, bytes, sizeof bytes));
        CHECK(now_s() - start > 0.35);
        CHECK(comm_counters(world).wait_s - wait_s > 0.05);
        return;
    }
    usleep(400000);
    for (uint32_t i = 0; i <= COMM_MAX_IN_FLIGHT; i++)
        OK(comm_recv(world, 0, 9, bytes, sizeof bytes));
}

/* In shared memory a receiver needs nothing of a sender that is busy elsewhere. */
static void test_busy_sender(void)
{
    enum
    {
        N_BYTES = 3 << 20
    };
    OK(comm_barrier(world));
    if (size < 2 || rank > 1 || !shares_memory())
        return;
    uint8_t *bytes = malloc(N_BYTES);
    if (rank == 0)
    {
        for (uint32_t i = 0; i < COMM_MAX_IN_FLIGHT; i++)
        {
            fill_bytes(bytes, N_BYTES, i);
            OK(comm_send(world, 1, 10 + i, bytes, N_BYTES));
        }
        OK(comm_send(world, 1, 9, bytes, 1));
        usleep(1500000);
    }
    else
    {
        OK(comm_recv(world, 0, 9, bytes, 1));
        double start = now_s();
        for (uint32_t i = 0; i < COMM_MAX_IN_FLIGHT; i++)
        {
            OK(comm_recv(world, 0, 10 + i, bytes, N_BYTES));
            CHECK(bytes_are(bytes, N_BYTES, i));
        }
        CHECK(now_s() - start < 1.2);
    }
    free(bytes);
}

static void test_counters(void)
{
    uint8_t bytes[123];
    CommCounters before = comm_counters(world);
    OK(comm_send(world, (rank + 1) % size, 3, bytes, sizeof bytes));
    OK(comm_recv(world, (rank + size - 1) % size, 3, bytes, sizeof bytes));
    CommCounters after = comm_counters(world);
    CHECK(after.sent_bytes - before.sent_bytes == 123);
    CHECK(after.received_bytes - before.received_bytes == 123);
    CHECK(after.wait_s >= before.wait_s);
}

void test_messages(void)
{
    test_order();
    test_sizes();
    test_tags();
    test_random(1);
    test_random(2);
    test_in_flight();
    test_busy_sender();
    test_counters();
}
