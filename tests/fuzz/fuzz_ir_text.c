/* Any bytes as IR text: the parser and the verifier end in order, errors print, and what the verifier accepts
 * round-trips: print(parse(print(parse(t)))) == print(parse(t)), to the byte. */
#include "base/diag.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

/* The printed form of text, or NULL when the parser or the verifier refuses it. */
static const char *reprint(Arena *arena, Diag *diag, const char *text, size_t n_bytes)
{
    uint32_t file = diag_add_file(diag, "fuzz.ir", text, n_bytes);
    const IrModule *module = ir_parse_module(arena, diag, file, text, n_bytes);
    const char *why = NULL;
    if (!module || !ir_verify(arena, module, &why))
        return NULL;
    StrBuf out = strbuf_make(arena);
    ir_print_module(&out, module);
    return strbuf_text(&out);
}

static void print_to_nowhere(const Diag *diag)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *memory = open_memstream(&text, &n_bytes);
    if (!memory)
        abort();
    diag_print(diag, memory, false);
    fclose(memory);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *first = reprint(arena, diag, (const char *)data, size_bytes);
    print_to_nowhere(diag);
    if (first)
    {
        const char *second = reprint(arena, diag, first, strlen(first));
        if (!second || strcmp(first, second) != 0)
        {
            fprintf(stderr, "printed:\n%s\nread back and printed:\n%s\n", first, second ? second : "(refused)");
            abort();
        }
    }
    arena_destroy(arena);
    return 0;
}
