/* Fuzzes the frontend: whatever bytes come as a model, it ends with a job whose module verifies, or with errors that
 * print. Our own checks must speak before the schema does: a model that only the schema refuses is a hole in them. */
#include "base/bug.h"
#include "frontend/frontend.h"
#include "ir/verify.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const char path[] = "/nonexistent/fuzz.xml";

static void check_messages(const Diag *diag)
{
    char *text = NULL;
    size_t n_text = 0;
    FILE *memory = open_memstream(&text, &n_text);
    ENSURE(memory);
    diag_print(diag, memory, false);
    fclose(memory);
    /* only where a message begins: the fuzzer learns to write the words into the model */
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, path, strlen(path)) == 0)
        {
            const char *message = line + strlen(path) + strspn(line + strlen(path), ":0123456789 ");
            ENSURE(strncmp(message, "error: refused by the schema", 28) != 0);
        }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    /* no folder and no library: nothing can be included */
    const FrontendOptions options = {.lib_dir = "/nonexistent", .max_bytes = 1 << 16, .max_ops = 2000};
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Job *job = NULL;
    Status status = frontend_load_text(arena, diag, path, (const char *)data, n_bytes, &options, &job);
    ENSURE((status == STATUS_OK) == (diag_error_count(diag) == 0));
    check_messages(diag);
    const char *why;
    if (status == STATUS_OK && !ir_verify(arena, job->module, &why))
        BUG("the frontend made a wrong module: %s", why);
    arena_destroy(arena);
    return 0;
}
