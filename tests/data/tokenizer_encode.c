/* For tokenizer_parity.sh: tokens of the records (u32 length, bytes) of a file, a line "id:begin:end ..." for each.
 * usage: tokenizer_encode TOKENIZER FILE [REPEATS]; with REPEATS nothing is printed but the speed of this thread. */
#include "runtime/mapped_file.h"
#include "runtime/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Returns the number of tokens, or -1. */
static long encode_file(TokenizerScratch *scratch, const MappedFile *file, bool print)
{
    const char *bytes = file->data;
    long n_tokens = 0;
    for (size_t at = 0; at + sizeof(uint32_t) <= file->size_bytes;)
    {
        uint32_t len;
        TokenSpan span;
        memcpy(&len, bytes + at, sizeof len);
        at += sizeof len;
        if (len > file->size_bytes - at || tokenizer_encode(scratch, bytes + at, len, &span) != STATUS_OK)
            return -1;
        for (uint32_t i = 0; print && i < span.n_tokens; i++)
            printf("%d:%u:%u ", (int)span.tokens[i].id, span.tokens[i].begin, span.tokens[i].end);
        if (print)
            printf("\n");
        at += len;
        n_tokens += span.n_tokens;
        tokenizer_scratch_reset(scratch);
    }
    return n_tokens;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4)
    {
        fprintf(stderr, "usage: %s TOKENIZER FILE [REPEATS]\n", argv[0]);
        return 2;
    }
    Tokenizer *tokenizer;
    MappedFile file;
    if (tokenizer_open(argv[1], &tokenizer) != STATUS_OK || mapped_file_open(argv[2], &file) != STATUS_OK)
    {
        fprintf(stderr, "%s\n", status_detail());
        return 1;
    }
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    int n_repeats = argc == 4 ? atoi(argv[3]) : 1;
    double start = cpu_seconds();
    long n_tokens = 0;
    for (int i = 0; i < n_repeats && n_tokens >= 0; i++)
        n_tokens = encode_file(scratch, &file, argc == 3);
    double seconds = cpu_seconds() - start;
    if (n_tokens < 0)
        fprintf(stderr, "%s\n", status_detail());
    else if (argc == 4)
        printf("%s: %.1f MB/s, %ld tokens\n", argv[1], 1e-6 * n_repeats * (double)file.size_bytes / seconds, n_tokens);
    tokenizer_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
    mapped_file_close(&file);
    return n_tokens < 0;
}
