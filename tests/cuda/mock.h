/* What the mocks of CUDA's three libraries share. They are shared objects under the libraries' own names, in a folder
 * that $PTC_CUDA_PATH names, so that ptc loads them as it would load the real ones.
 *
 *   MOCK_CUDA_LOG=FILE              a line per call
 *   MOCK_CUDA_FAIL=SYMBOL:N:RESULT  the N-th call (from 1) of that symbol gives RESULT; "N+": and all that follow
 *   MOCK_CUDA_VERSION=13000         what the driver supports
 *   MOCK_CUDA_DEVICES=2, MOCK_CUDA_ARCH=90, MOCK_CUDA_MEMORY=BYTES */
#ifndef PTC_TESTS_CUDA_MOCK_H
#define PTC_TESTS_CUDA_MOCK_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* In front of a cubin of the mock: a shared object of the same kernels for the CPU. */
typedef struct
{
    char magic[8];
    size_t size_bytes;
} MockCubin;
#define MOCK_CUBIN_MAGIC "mockbin"

static inline long mock_number(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? atol(text) : otherwise;
}

/* Records the call, counts it while it is to fail, and says what it is to give. */
__attribute__((format(printf, 3, 4))) static inline int mock_call(unsigned *n_calls, const char *symbol,
                                                                  const char *format, ...)
{
    const char *path = getenv("MOCK_CUDA_LOG"), *fail = getenv("MOCK_CUDA_FAIL");
    const size_t n = strlen(symbol);
    if (path && *path)
    {
        FILE *file = fopen(path, "a");
        va_list args;
        va_start(args, format);
        if (file)
        {
            fprintf(file, "%s ", symbol);
            vfprintf(file, format, args);
            fputc('\n', file);
            fclose(file);
        }
        va_end(args);
    }
    if (!fail || strncmp(fail, symbol, n) != 0 || fail[n] != ':')
    {
        *n_calls = 0;
        return 0;
    }
    ++*n_calls;
    char *end;
    const unsigned long nth = strtoul(fail + n + 1, &end, 10);
    const int on = *end == '+';
    return *n_calls == nth || (on && *n_calls > nth) ? atoi(end + on + 1) : 0;
}

/* First in every function. */
#define MOCK(...)                                                                                                      \
    static unsigned n_calls;                                                                                           \
    const int failure = mock_call(&n_calls, __VA_ARGS__);                                                              \
    if (failure)                                                                                                       \
    return failure

#endif
