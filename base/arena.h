/* Arena: bump allocation with one owner and one lifetime.
 *
 * The compiler uses three: job (source text, interned strings, diagnostics), module (the IR) and
 * scratch (lent to a pass, reset when it returns). A function that allocates takes `Arena *` first;
 * a function without it does not allocate. Allocation never fails from the caller's point of view:
 * when the system has no memory left, the process ends with status OUT_OF_MEMORY's exit code. */
#ifndef PTC_BASE_ARENA_H
#define PTC_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Arena Arena;

/* A fresh arena; the caller owns it. */
Arena *arena_create(void);
/* Frees the arena and all that was allocated from it. NULL is allowed. */
void arena_destroy(Arena *arena);
/* Forgets all allocations but keeps the first chunk. */
void arena_reset(Arena *arena);
/* Bytes handed out since creation or the last reset. */
size_t arena_used_bytes(const Arena *arena);

/* Zeroed memory, aligned to 16 bytes. size_bytes may be 0. */
void *arena_alloc(Arena *arena, size_t size_bytes);
/* NUL-terminated copies. */
char *arena_strdup(Arena *arena, const char *text);
char *arena_strndup(Arena *arena, const char *text, size_t n_bytes);
char *arena_printf(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *arena_vprintf(Arena *arena, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
/* Copy of n_bytes bytes. */
void *arena_memdup(Arena *arena, const void *bytes, size_t n_bytes);

#define ARENA_NEW(arena, T)      ((T *)arena_alloc((arena), sizeof(T)))
#define ARENA_ARRAY(arena, T, n) ((T *)arena_alloc((arena), sizeof(T) * (size_t)(n)))

/* A growable array inside an arena: `VEC(int) v = {0}; vec_push(arena, &v, 3); v.data[0]`.
 * Growth copies, so pointers into data do not survive a push; indices do. */
#define VEC(T)                                                                                                         \
    struct                                                                                                             \
    {                                                                                                                  \
        T *data;                                                                                                       \
        uint32_t len;                                                                                                  \
        uint32_t cap;                                                                                                  \
    }
#define vec_push(arena, v, ...)                                                                                        \
    do                                                                                                                 \
    {                                                                                                                  \
        if ((v)->len == (v)->cap)                                                                                      \
            (v)->data = arena_vec_grow((arena), (v)->data, (v)->len, &(v)->cap, sizeof *(v)->data);                    \
        (v)->data[(v)->len++] = __VA_ARGS__;                                                                           \
    } while (0)
void *arena_vec_grow(Arena *arena, void *data, uint32_t len, uint32_t *cap, size_t elem_bytes);

#endif
