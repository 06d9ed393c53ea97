/* kill -9 at 20 random moments: a writer that does nothing but write checkpoints is killed, and what it leaves must
 * load whole, with no step lost that it reported as written. */
#include "checkpoint_state.h"

#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum
{
    N_KILLS = 20,
    MAX_DELAY_US = 30000
};

/* Writes steps from `from` on and reports each over the pipe, until it is killed. Every fourth step is written twice,
 * which takes the road that replaces a checkpoint of the same name. */
static void write_for_ever(const char *out_dir, uint64_t from, int report)
{
    for (uint64_t step = from;; step++)
    {
        for (int i = 0; i < (step % 4 == 0 ? 2 : 1); i++)
            if (write_step(out_dir, step, CHECKPOINT_KEEP_DEFAULT) != STATUS_OK)
                _exit(1);
        if (write(report, &step, sizeof step) != sizeof step)
            _exit(2);
    }
}

static void sleep_us(uint32_t us)
{
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};
    nanosleep(&pause, NULL);
}

/* Runs a writer, kills it some microseconds after it began, returns the last step that it reported (0: none). */
static uint64_t run_and_kill(const char *out_dir, uint64_t from, uint32_t delay_us)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0)
        write_for_ever(out_dir, from, ends[1]);
    close(ends[1]);
    sleep_us(delay_us);
    kill(writer, SIGKILL);
    int how;
    assert_int_equal(waitpid(writer, &how, 0), writer);
    if (!WIFSIGNALED(how))
        fail_msg("the writer ended by itself, status %d", how);
    uint64_t step, last = 0;
    while (read(ends[0], &step, sizeof step) == sizeof step)
        last = step;
    close(ends[0]);
    return last;
}

/* Whatever has a checkpoint's name is whole, not only the one that `latest` names. */
static void expect_all_whole(const char *out_dir)
{
    const char *checkpoints = path_in(out_dir, "checkpoints");
    struct dirent **entries;
    int n = scandir(checkpoints, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++)
    {
        if (strncmp(entries[i]->d_name, "step-", 5) == 0)
        {
            Checkpoint *checkpoint = NULL;
            EXPECT_OK(checkpoint_open_folder(path_in(checkpoints, entries[i]->d_name), &checkpoint));
            expect_whole(checkpoint);
            checkpoint_close(checkpoint);
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

static void test_kill_at_random_moments(void **state)
{
    const char *out_dir = *state;
    uint64_t seed = test_seed(), counter = 0;
    uint64_t newest = 0;
    uint32_t n_between = 0;
    /* On a machine so busy that no step gets done, later kills come later. */
    for (int i = 0; i < N_KILLS || (newest == 0 && i < 5 * N_KILLS); i++)
    {
        uint32_t delay_us = random_next(seed, &counter) % (MAX_DELAY_US << i / N_KILLS);
        uint64_t reported = run_and_kill(out_dir, newest + 1, delay_us);
        expect_all_whole(out_dir);
        Checkpoint *checkpoint = NULL;
        Arena *arena = arena_create();
        StrBuf warnings = strbuf_make(arena);
        EXPECT_OK(checkpoint_open(out_dir, &warnings, &checkpoint));
        assert_string_equal(strbuf_text(&warnings), ""); /* not even one torn checkpoint to skip */
        arena_destroy(arena);
        uint64_t found = 0;
        if (checkpoint)
        {
            expect_whole(checkpoint);
            found = checkpoint_state(checkpoint)->step;
            checkpoint_close(checkpoint);
        }
        if (found < reported || found < newest)
            fail_msg("kill %d after %u us: step %" PRIu64 " was written, %" PRIu64 " is found", i, delay_us,
                     reported > newest ? reported : newest, found);
        n_between += found > reported || reported == 0;
        newest = found;
    }
    printf("%" PRIu64 " checkpoints written, %u of %d kills before a step was reported\n", newest, n_between, N_KILLS);
    assert_true(newest > 0); /* else the kills came too early to show anything */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill_at_random_moments, scratch_create, scratch_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
