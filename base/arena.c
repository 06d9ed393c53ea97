/* Arena: a list of chunks, each twice the size of the one before, up to 64 MiB. */
#include "base/arena.h"

#include "base/bug.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    ALIGNMENT = 16,
    FIRST_CHUNK_BYTES = 64 * 1024,
    MAX_CHUNK_BYTES = 64 * 1024 * 1024
};

typedef struct Chunk Chunk;
struct Chunk
{
    Chunk *prev;
    size_t size_bytes;
    size_t used_bytes;
    size_t pad;
};

struct Arena
{
    Chunk *top;
    size_t used_bytes;
};

static Chunk *chunk_create(Chunk *prev, size_t size_bytes)
{
    Chunk *chunk = malloc(sizeof *chunk + size_bytes);
    if (!chunk)
        base_out_of_memory(size_bytes);
    *chunk = (Chunk){.prev = prev, .size_bytes = size_bytes};
    return chunk;
}

Arena *arena_create(void)
{
    Arena *arena = malloc(sizeof *arena);
    if (!arena)
        base_out_of_memory(sizeof *arena);
    *arena = (Arena){.top = chunk_create(NULL, FIRST_CHUNK_BYTES)};
    return arena;
}

static void drop_chunks(Arena *arena, const Chunk *keep)
{
    while (arena->top && arena->top != keep)
    {
        Chunk *prev = arena->top->prev;
        free(arena->top);
        arena->top = prev;
    }
}

void arena_destroy(Arena *arena)
{
    if (!arena)
        return;
    drop_chunks(arena, NULL);
    free(arena);
}

void arena_reset(Arena *arena)
{
    Chunk *first = arena->top;
    while (first->prev)
        first = first->prev;
    drop_chunks(arena, first);
    arena->top->used_bytes = 0;
    arena->used_bytes = 0;
}

size_t arena_used_bytes(const Arena *arena)
{
    return arena->used_bytes;
}

void *arena_alloc(Arena *arena, size_t size_bytes)
{
    if (size_bytes > SIZE_MAX / 2)
        base_out_of_memory(size_bytes);
    size_t need = (size_bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    Chunk *chunk = arena->top;
    if (chunk->size_bytes - chunk->used_bytes < need)
    {
        size_t size = chunk->size_bytes < MAX_CHUNK_BYTES ? chunk->size_bytes * 2 : MAX_CHUNK_BYTES;
        chunk = arena->top = chunk_create(chunk, size < need ? need : size);
    }
    void *memory = (char *)(chunk + 1) + chunk->used_bytes;
    chunk->used_bytes += need;
    arena->used_bytes += need;
    return memset(memory, 0, need);
}

void *arena_memdup(Arena *arena, const void *bytes, size_t n_bytes)
{
    void *copy = arena_alloc(arena, n_bytes);
    return n_bytes ? memcpy(copy, bytes, n_bytes) : copy;
}

char *arena_strndup(Arena *arena, const char *text, size_t n_bytes)
{
    char *copy = arena_alloc(arena, n_bytes + 1);
    memcpy(copy, text, n_bytes);
    return copy;
}

char *arena_strdup(Arena *arena, const char *text)
{
    return arena_strndup(arena, text, strlen(text));
}

char *arena_vprintf(Arena *arena, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0)
        BUG("bad format string '%s'", format);
    char *text = arena_alloc(arena, (size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

char *arena_printf(Arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

void *arena_vec_grow(Arena *arena, void *data, uint32_t len, uint32_t *cap, size_t elem_bytes)
{
    uint32_t new_cap = *cap ? *cap * 2 : 8;
    if (new_cap <= *cap)
        BUG("array of more than 2^31 elements");
    void *grown = arena_alloc(arena, elem_bytes * new_cap);
    if (len)
        memcpy(grown, data, elem_bytes * len);
    *cap = new_cap;
    return grown;
}
