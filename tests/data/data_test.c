#include "data_test.h"

#include "base/philox.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void expect_fail(Status got, Status status, const char *part, const char *file, int line)
{
    if (got != status)
    {
        print_error("status '%s' instead of '%s' (detail: %s)\n", status_text(got), status_text(status),
                    got == STATUS_OK ? "" : status_detail());
        _fail(file, line);
    }
    if (!strstr(status_detail(), part))
    {
        print_error("'%s' does not contain '%s'\n", status_detail(), part);
        _fail(file, line);
    }
}

int scratch_create(void **state)
{
    char *folder = strdup("/tmp/ptc-data-test-XXXXXX");
    *state = folder;
    return folder && mkdtemp(folder) ? 0 : -1;
}

static void remove_all(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return;
    if (!S_ISDIR(info.st_mode))
    {
        unlink(path);
        return;
    }
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
        {
            char *child = NULL;
            if (asprintf(&child, "%s/%s", path, entry->d_name) > 0)
                remove_all(child);
            free(child);
        }
    if (dir)
        closedir(dir);
    rmdir(path);
}

int scratch_remove(void **state)
{
    remove_all(*state);
    free(*state);
    return 0;
}

const char *path_in(const char *folder, const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void write_bytes(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n_bytes, out), n_bytes);
    assert_int_equal(fclose(out), 0);
}

char *read_bytes(const char *path, size_t *out_n_bytes)
{
    FILE *in = fopen(path, "rb");
    if (!in)
        return NULL;
    fseek(in, 0, SEEK_END);
    size_t n = (size_t)ftell(in);
    rewind(in);
    char *bytes = malloc(n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, n, in), n);
    bytes[n] = 0;
    fclose(in);
    if (out_n_bytes)
        *out_n_bytes = n;
    return bytes;
}

uint64_t test_seed(void)
{
    static uint64_t seed;
    if (!seed)
    {
        const char *given = getenv("PTC_TEST_SEED");
        seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
        printf("seed: PTC_TEST_SEED=%" PRIu64 "\n", seed);
        fflush(stdout);
    }
    return seed;
}

uint32_t random_next(uint64_t seed, uint64_t *counter)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t words[4] = {(uint32_t)*counter, (uint32_t)(*counter >> 32), 0x7e57, 0};
    ++*counter;
    philox4x32(words, key, words);
    return words[0];
}
