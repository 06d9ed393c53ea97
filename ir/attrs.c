/* Attributes: the key table, and short lists kept in key order. */
#include "base/bug.h"
#include "ir/module.h"

#include <string.h>

static const struct
{
    const char *name;
    IrAttrKind kind;
} keys[] = {
    {"", IR_KIND_INT},
#define ATTR(key, kind) {#key, IR_KIND_##kind},
#include "ir/attrs.def"
#undef ATTR
};

IrAttrKind ir_attr_kind(IrAttrKey key)
{
    return keys[key].kind;
}

const char *ir_attr_name(IrAttrKey key)
{
    return keys[key].name;
}

IrAttrKey ir_attr_by_name(const char *name)
{
    for (int i = 1; i < IR_ATTR_COUNT; i++)
        if (strcmp(name, keys[i].name) == 0)
            return (IrAttrKey)i;
    return IR_ATTR_NONE;
}

IrAttr ir_attr_int(IrAttrKey key, int64_t value)
{
    ENSURE(ir_attr_kind(key) == IR_KIND_INT);
    return (IrAttr){.key = key, .i = value};
}

IrAttr ir_attr_float(IrAttrKey key, double value)
{
    ENSURE(ir_attr_kind(key) == IR_KIND_FLOAT);
    return (IrAttr){.key = key, .f = value};
}

IrAttr ir_attr_bool(IrAttrKey key, bool value)
{
    ENSURE(ir_attr_kind(key) == IR_KIND_BOOL);
    return (IrAttr){.key = key, .i = value};
}

IrAttr ir_attr_str(IrAttrKey key, const char *value)
{
    ENSURE(ir_attr_kind(key) == IR_KIND_STR && value);
    return (IrAttr){.key = key, .s = value};
}

IrAttr ir_attr_ints(IrAttrKey key, const int64_t *values, uint32_t n)
{
    ENSURE(ir_attr_kind(key) == IR_KIND_INTS);
    return (IrAttr){.key = key, .ints = values, .n = n};
}

const IrAttr *ir_attrs_find(const IrAttrs *attrs, IrAttrKey key)
{
    for (uint32_t i = 0; i < attrs->len; i++)
        if (attrs->data[i].key == key)
            return &attrs->data[i];
    return NULL;
}

int64_t ir_attrs_int(const IrAttrs *attrs, IrAttrKey key, int64_t absent)
{
    const IrAttr *attr = ir_attrs_find(attrs, key);
    return attr ? attr->i : absent;
}

double ir_attrs_float(const IrAttrs *attrs, IrAttrKey key, double absent)
{
    const IrAttr *attr = ir_attrs_find(attrs, key);
    return attr ? attr->f : absent;
}

bool ir_attrs_bool(const IrAttrs *attrs, IrAttrKey key)
{
    const IrAttr *attr = ir_attrs_find(attrs, key);
    return attr && attr->i != 0;
}

const char *ir_attrs_str(const IrAttrs *attrs, IrAttrKey key)
{
    const IrAttr *attr = ir_attrs_find(attrs, key);
    return attr ? attr->s : NULL;
}

static bool attr_equal(const IrAttr *a, const IrAttr *b)
{
    if (a->key != b->key)
        return false;
    switch (ir_attr_kind(a->key))
    {
    case IR_KIND_INT:
    case IR_KIND_BOOL:
        return a->i == b->i;
    case IR_KIND_FLOAT:
        return memcmp(&a->f, &b->f, sizeof a->f) == 0;
    case IR_KIND_STR:
        return strcmp(a->s, b->s) == 0;
    case IR_KIND_INTS:
        return a->n == b->n && (a->n == 0 || memcmp(a->ints, b->ints, a->n * sizeof *a->ints) == 0);
    }
    return false;
}

bool ir_attrs_equal(const IrAttrs *a, const IrAttrs *b)
{
    if (a->len != b->len)
        return false;
    for (uint32_t i = 0; i < a->len; i++)
        if (!attr_equal(&a->data[i], &b->data[i]))
            return false;
    return true;
}

static IrAttr attr_copy(Arena *arena, IrAttr attr)
{
    if (attr.s)
        attr.s = arena_strdup(arena, attr.s);
    if (attr.n)
        attr.ints = arena_memdup(arena, attr.ints, attr.n * sizeof *attr.ints);
    return attr;
}

IrAttrs ir_attrs_copy(Arena *arena, const IrAttr *data, uint32_t n)
{
    IrAttrs attrs = {0};
    if (n == 0)
        return attrs;
    attrs.data = ARENA_ARRAY(arena, IrAttr, n);
    for (uint32_t i = 0; i < n; i++)
    {
        if (ir_attr_kind(data[i].key) == IR_KIND_BOOL && !data[i].i)
            continue;
        uint32_t at = attrs.len++;
        for (; at > 0 && attrs.data[at - 1].key > data[i].key; at--)
            attrs.data[at] = attrs.data[at - 1];
        attrs.data[at] = attr_copy(arena, data[i]);
    }
    return attrs;
}

void ir_attrs_put(Arena *arena, IrAttrs *attrs, IrAttr attr)
{
    ir_attrs_remove(attrs, attr.key);
    IrAttr *all = ARENA_ARRAY(arena, IrAttr, attrs->len + 1);
    for (uint32_t i = 0; i < attrs->len; i++)
        all[i] = attrs->data[i];
    all[attrs->len] = attr;
    *attrs = ir_attrs_copy(arena, all, attrs->len + 1);
}

void ir_attrs_remove(IrAttrs *attrs, IrAttrKey key)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < attrs->len; i++)
        if (attrs->data[i].key != key)
            attrs->data[kept++] = attrs->data[i];
    attrs->len = kept;
}
