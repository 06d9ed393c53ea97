/* Fuzzes the text form of the IR: whatever bytes come, the parser and the verifier end with a verdict, and what was
 * read prints to text that reads and prints the same, verified or not; a clone prints the same too. */
#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void print_to_nowhere(const Diag *diag)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *memory = open_memstream(&text, &n_bytes);
    ENSURE(memory);
    diag_print(diag, memory, false);
    fclose(memory);
    free(text);
}

static IrModule *parse(Arena *arena, const char *text, size_t n_bytes)
{
    Diag *diag = diag_create(arena);
    IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "fuzz.ptir", text, n_bytes), text, n_bytes);
    ENSURE((m == NULL) == (diag_error_count(diag) > 0));
    print_to_nowhere(diag);
    return m;
}

static const char *print(Arena *arena, const IrModule *m)
{
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    Arena *arena = arena_create();
    IrModule *m = parse(arena, (const char *)data, n_bytes);
    if (m)
    {
        const char *why, *why_again;
        bool right = ir_verify(arena, m, &why);
        const char *text = print(arena, m);
        IrModule *again = parse(arena, text, strlen(text));
        ENSURE(again);
        ENSURE(strcmp(text, print(arena, again)) == 0);
        ENSURE(ir_verify(arena, again, &why_again) == right);
        ENSURE(right || strcmp(why, why_again) == 0);
        ENSURE(strcmp(text, print(arena, ir_module_clone(arena, m))) == 0);
    }
    arena_destroy(arena);
    return 0;
}
