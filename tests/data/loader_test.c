/* The loader: batches are what one thread would have made, whatever the number of threads and batches under way. */
#include "data_test.h"

#include "runtime/loader.h"

#include <stdlib.h>

enum
{
    N_SAMPLES = 1000,
    WIDTH = 7,
    ROWS = 150, /* more than a thread takes at once */
    N_BATCHES = 3
};

static Dataset *open_synthetic(void)
{
    const DatasetSource sources[] = {
        {.field = "x",
         .format = "synthetic",
         .elem = ELEM_F32,
         .rank = 1,
         .dims = {WIDTH},
         .n_samples = N_SAMPLES,
         .seed = 3,
         .low = -1,
         .high = 1},
        {.field = "y", .format = "synthetic", .elem = ELEM_U8, .n_samples = N_SAMPLES, .seed = 3, .high = 255},
    };
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    return dataset;
}

/* One batch with its buffers: slot 0 and 1 are two parts of x, slot 2 is y. */
typedef struct
{
    LoaderBatch batch;
    LoaderSlot slots[3];
    uint64_t indices[2 * ROWS];
    float x[2][ROWS][WIDTH];
    int32_t y[ROWS];
} Case;

static void prepare(Case *c, const Dataset *dataset, uint32_t n, uint64_t *counter)
{
    memset(c->x, 0xee, sizeof c->x);
    memset(c->y, 0xee, sizeof c->y);
    for (uint32_t i = 0; i < n; i++)
        c->indices[i] = random_next(1, counter) % N_SAMPLES;
    const uint32_t n_first = n < ROWS ? n : ROWS;
    c->slots[0] = (LoaderSlot){{.field = 0, .elem = ELEM_F32, .data = c->x[0]}, c->indices, n_first, ROWS};
    c->slots[1] =
        (LoaderSlot){{.field = 0, .elem = ELEM_F32, .data = c->x[1]}, c->indices + n_first, n - n_first, ROWS};
    c->slots[2] = (LoaderSlot){{.field = 1, .elem = ELEM_I32, .data = c->y}, c->indices, n_first, ROWS};
    c->batch.dataset = dataset;
    c->batch.slots = c->slots;
    c->batch.n_slots = 3;
}

static void expect_filled(const Case *c, const Dataset *dataset, uint32_t n)
{
    for (uint32_t row = 0; row < 2 * ROWS; row++)
    {
        float x[WIDTH] = {0};
        uint8_t y = 0;
        if (row < n)
        {
            EXPECT_OK(dataset_read(dataset, 0, c->indices[row], &c->batch.pass, x));
            EXPECT_OK(dataset_read(dataset, 1, c->indices[row], &c->batch.pass, &y));
        }
        assert_memory_equal(c->x[row / ROWS][row % ROWS], x, sizeof x);
        if (row < ROWS)
            assert_int_equal(c->y[row], y);
    }
}

/* All sizes from none to full, several batches at once, the same batches again and again. */
static void test_contents(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {2 * ROWS, 0, 1, ROWS - 1, ROWS, ROWS + 1, 64, 65, 2 * ROWS};
    Dataset *dataset = open_synthetic();
    Case *cases = calloc(N_BATCHES, sizeof *cases);
    uint64_t counter = 0;
    for (uint32_t n_threads = 1; n_threads <= 8; n_threads *= 2)
        for (int costly = 0; costly < 2; costly++)
        {
            Loader *loader = NULL;
            EXPECT_OK(loader_create(n_threads, costly, &loader));
            for (size_t round = 0; round < sizeof sizes / sizeof sizes[0] - N_BATCHES + 1; round++)
            {
                for (size_t i = 0; i < N_BATCHES; i++)
                {
                    prepare(&cases[i], dataset, sizes[round + i], &counter);
                    loader_start(loader, &cases[i].batch);
                }
                for (size_t i = N_BATCHES; i-- > 0;) /* not in the order in which they began */
                {
                    EXPECT_OK(loader_wait(loader, &cases[i].batch));
                    expect_filled(&cases[i], dataset, sizes[round + i]);
                }
            }
            loader_destroy(loader);
        }
    free(cases);
    dataset_close(dataset);
}

/* Batches that nobody waits for do not outlive the loader, and hold nothing. */
static void test_dropped(void **state)
{
    (void)state;
    Dataset *dataset = open_synthetic();
    Case *cases = calloc(N_BATCHES, sizeof *cases);
    uint64_t counter = 0;
    for (int round = 0; round < 20; round++)
    {
        Loader *loader = NULL;
        EXPECT_OK(loader_create(0, round % 2, &loader));
        for (int i = 0; i < N_BATCHES; i++)
        {
            cases[i].batch.state.started = false;
            prepare(&cases[i], dataset, 2 * ROWS, &counter);
            loader_start(loader, &cases[i].batch);
        }
        loader_destroy(loader);
    }
    free(cases);
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents),
        cmocka_unit_test(test_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
