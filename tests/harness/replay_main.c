/* Replays a fuzz corpus as an ordinary test: calls LLVMFuzzerTestOneInput on every file of the folders in argv.
 * The verdict is that nothing crashed and no sanitizer spoke; an empty or missing folder is a failure. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

/* Returns 1, or 0 when the file cannot be read. */
static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
    {
        perror(path);
        return 0;
    }
    int done = 0;
    uint8_t *data = NULL;
    fseek(file, 0, SEEK_END);
    long size_bytes = ftell(file);
    rewind(file);
    if (size_bytes >= 0)
    {
        /* exactly the size, so that AddressSanitizer sees a read past the end */
        data = malloc(size_bytes > 0 ? (size_t)size_bytes : 1);
        if (data && fread(data, 1, (size_t)size_bytes, file) == (size_t)size_bytes)
        {
            printf("%s\n", path);
            fflush(stdout);
            LLVMFuzzerTestOneInput(data, (size_t)size_bytes);
            done = 1;
        }
    }
    free(data);
    fclose(file);
    return done;
}

int main(int argc, char **argv)
{
    int n_replayed = 0;
    int n_failed = 0;
    for (int i = 1; i < argc; i++)
    {
        struct dirent **entries = NULL;
        int n_entries = scandir(argv[i], &entries, NULL, alphasort);
        for (int k = 0; k < n_entries; k++)
        {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[k]->d_name);
            if (entries[k]->d_name[0] != '.')
            {
                int done = replay_file(path);
                n_replayed += done;
                n_failed += !done;
            }
            free(entries[k]);
        }
        free(entries);
    }
    if (n_replayed == 0)
    {
        fprintf(stderr, "no corpus file was found\n");
        return 1;
    }
    printf("[  PASSED  ] %d test(s).\n", n_replayed);
    return n_failed ? 1 : 0;
}
