#include "fixture.h"

#include "harness/test.h"

#include "base/strbuf.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *mocks; /* the whole set */
static char chosen[] = "/tmp/ptc-cuda-test-XXXXXX", log_path[] = "/tmp/ptc-cuda-log-XXXXXX";

bool fixture_has_compiler(void)
{
    const char *own = getenv("CXX");
    return (own && *own) || system("command -v c++ >/dev/null 2>&1") == 0;
}

const IrModule *fixture_module(Arena *arena, const char *text)
{
    Diag *diag = diag_create(arena);
    IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "test.ir", text, strlen(text)), text, strlen(text));
    diag_print(diag, stdout, false);
    assert_non_null(m);
    return m;
}

HalDevice *fixture_device(void)
{
    HalDevice *device = NULL;
    if (hal_device_create("cuda", NULL, &device) != STATUS_OK)
        fail_msg("%s", status_detail());
    return device;
}

void fixture_mocks_choose(const char *const *links, size_t n)
{
    mocks = getenv("PTC_CUDA_PATH");
    assert_non_null(mocks);
    strcpy(chosen + strlen(chosen) - 6, "XXXXXX");
    assert_non_null(mkdtemp(chosen));
    for (size_t i = 0; i < n; i++)
    {
        char target[512], name[512];
        const size_t at = strcspn(links[i], "=");
        snprintf(target, sizeof target, "%s/%s", mocks, links[i][at] ? links[i] + at + 1 : links[i]);
        snprintf(name, sizeof name, "%s/%.*s", chosen, (int)at, links[i]);
        assert_int_equal(symlink(target, name), 0);
    }
    mocks = strdup(mocks);
    setenv("PTC_CUDA_PATH", chosen, 1);
}

void fixture_mocks_restore(void)
{
    char command[128];
    setenv("PTC_CUDA_PATH", mocks, 1);
    free((char *)(uintptr_t)mocks);
    snprintf(command, sizeof command, "rm -rf '%s'", chosen);
    assert_int_equal(system(command), 0);
}

void fixture_log_start(void)
{
    strcpy(log_path + strlen(log_path) - 6, "XXXXXX");
    const int file = mkstemp(log_path);
    assert_true(file >= 0);
    close(file);
    setenv("MOCK_CUDA_LOG", log_path, 1);
}

const char *fixture_log_stop(Arena *arena)
{
    StrBuf text = strbuf_make(arena);
    char block[4096];
    unsetenv("MOCK_CUDA_LOG");
    FILE *file = fopen(log_path, "r");
    assert_non_null(file);
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;)
        strbuf_add_bytes(&text, block, n);
    fclose(file);
    unlink(log_path);
    return strbuf_text(&text);
}

void fixture_expect(Status status, Status wanted, int exit_code, const char *text)
{
    if (status != wanted || !strstr(status_detail(), text))
        fail_msg("status %d (wanted %d), \"%s\" (wanted \"...%s...\")", (int)status, (int)wanted, status_detail(),
                 text);
    assert_int_equal(status_exit_code(status), exit_code);
}
