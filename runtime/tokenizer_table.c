/* The hash tables of the tokenizer: spellings to ids, pairs to merges. XXH3, open addressing, at most half full; their
 * size is given when they are made, so they never grow. */
#include "runtime/tokenizer_parts.h"

#include <xxhash.h>

static uint32_t table_mask(size_t n_max)
{
    uint32_t n_slots = 16;
    while (n_slots < 2 * n_max && n_slots < 1u << 31)
        n_slots *= 2;
    return n_slots - 1;
}

/* ---- spellings */

Vocab vocab_make(Arena *arena, size_t n_max)
{
    uint32_t mask = table_mask(n_max);
    return (Vocab){
        .entries = ARENA_ARRAY(arena, VocabEntry, n_max),
        .slots = ARENA_ARRAY(arena, uint64_t, (size_t)mask + 1),
        .mask = mask,
    };
}

/* The slot of text, or the free one where it belongs. */
static uint64_t *vocab_slot(const Vocab *vocab, const void *text, size_t len, uint64_t hash)
{
    for (uint32_t at = (uint32_t)hash & vocab->mask;; at = (at + 1) & vocab->mask)
    {
        uint64_t *slot = &vocab->slots[at];
        if (*slot == 0)
            return slot;
        if ((*slot ^ hash) >> 32 != 0)
            continue;
        const VocabEntry *entry = &vocab->entries[(uint32_t)*slot - 1];
        if (entry->len == len && memcmp(entry->text, text, len) == 0)
            return slot;
    }
}

VocabEntry *vocab_put(Vocab *vocab, const char *text, size_t len, bool *out_new)
{
    uint64_t hash = XXH3_64bits(text, len), *slot = vocab_slot(vocab, text, len, hash);
    *out_new = *slot == 0;
    if (*out_new)
    {
        *slot = (hash & ~(uint64_t)UINT32_MAX) | (vocab->n_entries + 1);
        vocab->entries[vocab->n_entries++] = (VocabEntry){text, (uint32_t)len, -1};
    }
    return &vocab->entries[(uint32_t)*slot - 1];
}

int32_t vocab_find(const Vocab *vocab, const void *text, size_t len)
{
    uint64_t slot = *vocab_slot(vocab, text, len, XXH3_64bits(text, len));
    return slot == 0 ? -1 : vocab->entries[(uint32_t)slot - 1].id;
}

/* ---- merges */

MergeTable merges_make(Arena *arena, size_t n_max)
{
    uint32_t mask = table_mask(n_max);
    MergeTable merges = {ARENA_ARRAY(arena, Merge, (size_t)mask + 1), mask};
    for (size_t i = 0; i <= mask; i++)
        merges.slots[i].id = -1;
    return merges;
}

static Merge *merge_slot(const MergeTable *merges, uint64_t pair)
{
    for (uint32_t at = (uint32_t)XXH3_64bits(&pair, sizeof pair) & merges->mask;; at = (at + 1) & merges->mask)
    {
        Merge *slot = &merges->slots[at];
        if (slot->id < 0 || slot->pair == pair)
            return slot;
    }
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void merges_put(MergeTable *merges, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t pair = pair_of(left, right);
    *merge_slot(merges, pair) = (Merge){pair, rank, id};
}

const Merge *merges_find(const MergeTable *merges, int32_t left, int32_t right)
{
    const Merge *slot = merge_slot(merges, pair_of(left, right));
    return slot->id < 0 ? NULL : slot;
}
