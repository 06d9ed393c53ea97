/* Folders of weights, and the way from a tensor there to a param here. */
#include "runtime/pretrained.h"

#include "base/bug.h"
#include "runtime/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct Pretrained
{
    Arena *arena;
    const char *path;
    VEC(Safetensors *) files;
    VEC(const NamedTensor *) tensors;
};

/* ---- opening */

static Status add_file(Pretrained *p, const char *path)
{
    Safetensors *file;
    Status status = STATUS_OK;
    TRY(safetensors_open(path, &file));
    for (uint32_t i = 0; i < safetensors_count(file) && status == STATUS_OK; i++)
    {
        const NamedTensor *tensor = safetensors_tensor(file, i);
        if (pretrained_find(p, tensor->name))
            status = status_fail(STATUS_BAD_INPUT, "'%s': tensor '%s' is in another shard too", path, tensor->name);
        vec_push(p->arena, &p->tensors, tensor);
    }
    vec_push(p->arena, &p->files, file);
    return status;
}

static bool is_loaded(const Pretrained *p, const char *path)
{
    for (uint32_t i = 0; i < p->files.len; i++)
        if (strcmp(safetensors_path(p->files.data[i]), path) == 0)
            return true;
    return false;
}

static Status read_index(Pretrained *p, const char *path, json_t *root)
{
    const json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        return status_fail(STATUS_BAD_INPUT, "'%s' has no object \"weight_map\"", path);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/') || shard[0] == '.')
            return status_fail(STATUS_BAD_INPUT, "'%s': the shard of '%s' is no file name", path, name);
        const char *file = arena_printf(p->arena, "%s/%s", p->path, shard);
        if (!is_loaded(p, file))
            TRY(add_file(p, file));
        if (!pretrained_find(p, name))
            return status_fail(STATUS_BAD_INPUT, "'%s' says that '%s' is in '%s', which does not have it", path, name,
                               shard);
    }
    for (uint32_t i = 0; i < p->tensors.len; i++)
        if (!json_object_get(map, p->tensors.data[i]->name))
            return status_fail(STATUS_BAD_INPUT, "'%s' does not list '%s', which a shard has", path,
                               p->tensors.data[i]->name);
    return STATUS_OK;
}

static Status open_index(Pretrained *p, const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    Status status = read_index(p, path, root);
    json_decref(root);
    return status;
}

static Status open_all(Pretrained *p)
{
    struct stat info;
    if (stat(p->path, &info) != 0)
        return status_fail(STATUS_BAD_INPUT, "cannot open '%s': %s", p->path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return add_file(p, p->path);
    const char *whole = arena_printf(p->arena, "%s/model.safetensors", p->path);
    const char *index = arena_printf(p->arena, "%s/model.safetensors.index.json", p->path);
    if (stat(whole, &info) == 0)
        return add_file(p, whole);
    if (stat(index, &info) == 0)
        return open_index(p, index);
    return status_fail(STATUS_BAD_INPUT, "'%s' has neither model.safetensors nor model.safetensors.index.json",
                       p->path);
}

Status pretrained_open(const char *path, Pretrained **out_pretrained)
{
    Arena *arena = arena_create();
    Pretrained *p = ARENA_NEW(arena, Pretrained);
    *p = (Pretrained){.arena = arena, .path = arena_strdup(arena, path)};
    Status status = open_all(p);
    if (status != STATUS_OK)
        pretrained_close(p);
    else
        *out_pretrained = p;
    return status;
}

void pretrained_close(Pretrained *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->files.len; i++)
        safetensors_close(p->files.data[i]);
    arena_destroy(p->arena);
}

const NamedTensor *pretrained_find(const Pretrained *p, const char *name)
{
    for (uint32_t i = 0; i < p->files.len; i++)
    {
        const NamedTensor *tensor = safetensors_find(p->files.data[i], name);
        if (tensor)
            return tensor;
    }
    return NULL;
}

uint32_t pretrained_count(const Pretrained *p)
{
    return p->tensors.len;
}

const NamedTensor *pretrained_tensor(const Pretrained *p, uint32_t i)
{
    return p->tensors.data[i];
}

/* ---- matching */

const char *pretrained_name(const IrGlobalData *param)
{
    const char *hf = ir_attrs_str(&param->attrs, IR_ATTR_hf);
    return hf ? hf : param->name;
}

/* Older checkpoints of BERT call the weight and the bias of a norm gamma and beta. */
static const NamedTensor *find_old_or_new(const Pretrained *p, const char *name)
{
    static const char *const older[][2] = {{".weight", "gamma"}, {".bias", "beta"}};
    const NamedTensor *tensor = pretrained_find(p, name);
    const char *last = strrchr(name, '.');
    for (size_t i = 0; !tensor && last && i < sizeof older / sizeof older[0]; i++)
        if (strcmp(last, older[i][0]) == 0)
            tensor = pretrained_find(p, arena_printf(p->arena, "%.*s.%s", (int)(last - name), name, older[i][1]));
    return tensor;
}

/* The tensor of the param, NULL when there is none, and whether it lies there as it does here. */
static const NamedTensor *tensor_of(const Pretrained *p, const IrGlobalData *param, bool *out_plain)
{
    const char *name = pretrained_name(param), *dot = strchr(name, '.');
    const NamedTensor *tensor = find_old_or_new(p, name);
    *out_plain = false;
    if (!tensor && dot)
        tensor = find_old_or_new(p, dot + 1);
    if (!tensor)
        *out_plain = (tensor = pretrained_find(p, param->name)) != NULL;
    return tensor;
}

/* The shape that the tensor of the param should have. */
static uint32_t shape_there(const IrGlobalData *param, bool plain, int64_t *dims)
{
    const IrAttr *shape = plain ? NULL : ir_attrs_find(&param->attrs, IR_ATTR_hf_shape);
    if (shape)
        memcpy(dims, shape->ints, sizeof *dims * shape->n);
    else
        memcpy(dims, param->type.dims, sizeof *dims * param->type.rank);
    return shape ? shape->n : param->type.rank;
}

static bool is_number(Elem elem)
{
    return elem == ELEM_F32 || elem == ELEM_F16 || elem == ELEM_BF16 || elem == ELEM_F64;
}

PretrainedMatch pretrained_match(const Pretrained *p, const IrGlobalData *param, const NamedTensor **out_tensor)
{
    int64_t dims[IR_MAX_RANK];
    bool plain;
    const NamedTensor *tensor = *out_tensor = tensor_of(p, param, &plain);
    const uint32_t rank = shape_there(param, plain, dims);
    if (!tensor)
        return PRETRAINED_MISSING;
    if (tensor->rank != rank || memcmp(tensor->dims, dims, sizeof *dims * rank) != 0 || !is_number(tensor->elem))
        return PRETRAINED_WRONG_SHAPE;
    return tensor->elem == ELEM_F32 ? PRETRAINED_EXACT : PRETRAINED_CAST;
}

/* ---- the table */

static int by_address(const void *a, const void *b)
{
    const NamedTensor *const *left = a, *const *right = b;
    return *left < *right ? -1 : *left > *right;
}

/* Names of the tensors that no param takes, but for integers: those are no weights (position_ids of older BERTs). */
static uint32_t list_unexpected(Arena *arena, const Pretrained *p, const IrModule *m, const char **out_names)
{
    const NamedTensor **taken = ARENA_ARRAY(arena, const NamedTensor *, m->globals.len + 1);
    uint32_t n_taken = 0, n = 0;
    bool plain;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_PARAM &&
            (taken[n_taken] = tensor_of(p, ir_global(m, g), &plain)) != NULL)
            n_taken++;
    qsort(taken, n_taken, sizeof *taken, by_address);
    for (uint32_t i = 0; i < p->tensors.len; i++)
        if (is_number(p->tensors.data[i]->elem) &&
            !bsearch(&p->tensors.data[i], taken, n_taken, sizeof *taken, by_address))
            out_names[n++] = p->tensors.data[i]->name;
    return n;
}

typedef struct
{
    uint32_t n_params, n_found, n_cast, n_missing, n_wrong, n_unexpected;
} Counts;

static void add_param(const Pretrained *p, const IrGlobalData *param, const char *const *unexpected,
                      uint32_t n_unexpected, StrBuf *table, Counts *counts)
{
    const NamedTensor *tensor;
    const char *name = pretrained_name(param);
    char here[128], there[128];
    int64_t dims[IR_MAX_RANK];
    bool plain;
    counts->n_params++;
    switch (pretrained_match(p, param, &tensor))
    {
    case PRETRAINED_EXACT:
        counts->n_found++;
        break;
    case PRETRAINED_CAST:
        counts->n_found++;
        counts->n_cast++;
        break;
    case PRETRAINED_MISSING:
    {
        const char *near = str_nearest(name, unexpected, n_unexpected);
        counts->n_missing++;
        strbuf_addf(table, "  missing      %s (param %s)%s%s%s\n", name, param->name, near ? "; did you mean '" : "",
                    near ? near : "", near ? "'?" : "");
        break;
    }
    case PRETRAINED_WRONG_SHAPE:
        counts->n_wrong++;
        (void)tensor_of(p, param, &plain);
        elem_tensor_text(ELEM_F32, shape_there(param, plain, dims), dims, here, sizeof here);
        elem_tensor_text(tensor->elem, tensor->rank, tensor->dims, there, sizeof there);
        strbuf_addf(table, "  wrong shape  %s is %s, param %s wants %s\n", name, there, param->name, here);
        break;
    }
}

Status pretrained_compare(const Pretrained *p, const IrModule *m, bool strict, StrBuf *table)
{
    Counts counts = {0};
    StrBuf rows = strbuf_make(table->arena);
    const char **unexpected = ARENA_ARRAY(table->arena, const char *, p->tensors.len + 1);
    counts.n_unexpected = list_unexpected(table->arena, p, m, unexpected);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_PARAM)
            add_param(p, ir_global(m, g), unexpected, counts.n_unexpected, &rows, &counts);
    for (uint32_t i = 0; i < counts.n_unexpected; i++)
        strbuf_addf(&rows, "  unexpected   %s\n", unexpected[i]);
    if (counts.n_cast || rows.len)
        strbuf_addf(
            table,
            "'%s': %u of %u params found (%u cast to f32), %u missing, %u of a wrong shape; %u tensors unexpected\n%s",
            p->path, counts.n_found, counts.n_params, counts.n_cast, counts.n_missing, counts.n_wrong,
            counts.n_unexpected, strbuf_text(&rows));
    if (counts.n_found == 0)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no tensor for any param of the model", p->path);
    if (strict && (counts.n_missing || counts.n_wrong || counts.n_unexpected))
        return status_fail(STATUS_BAD_INPUT,
                           "'%s' does not fit the model: %u params missing, %u of a wrong shape, %u tensors unexpected "
                           "(--init=partial takes what fits)",
                           p->path, counts.n_missing, counts.n_wrong, counts.n_unexpected);
    return STATUS_OK;
}

/* ---- numbers */

static float from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static float from_f16(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 0    ? ldexpf((float)mantissa, -24)
                  : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                   : ldexpf((float)(mantissa + 1024), exponent - 25);
    return bits & 0x8000 ? -value : value;
}

static float number_at(Elem elem, const char *bytes, int64_t i)
{
    uint16_t half;
    float single;
    double twice;
    switch (elem)
    {
    case ELEM_F32:
        memcpy(&single, bytes + 4 * i, sizeof single);
        return single;
    case ELEM_F64:
        memcpy(&twice, bytes + 8 * i, sizeof twice);
        return (float)twice;
    case ELEM_F16:
    case ELEM_BF16:
        memcpy(&half, bytes + 2 * i, sizeof half);
        return elem == ELEM_F16 ? from_f16(half) : from_bf16(half);
    default:
        BUG("a weight of type %s", elem_name(elem));
    }
}

/* Calls for every element of the param, in its order, the number of the element there. */
typedef struct
{
    uint32_t rank;
    int64_t extents[IR_MAX_RANK], strides[IR_MAX_RANK]; /* of the axes here; steps there */
} Walk;

static Walk walk_of(const IrGlobalData *param, bool plain)
{
    const IrAttr *dims = ir_attrs_find(&param->attrs, IR_ATTR_hf_dims);
    const IrAttr *perm = ir_attrs_find(&param->attrs, IR_ATTR_hf_perm);
    Walk walk = {.rank = 1, .extents = {ir_type_n_elems(&param->type)}, .strides = {1}};
    if (plain || !dims || !perm)
        return walk;
    int64_t steps[IR_MAX_RANK], step = 1;
    for (uint32_t i = dims->n; i-- > 0; step *= dims->ints[i])
        steps[i] = step;
    walk.rank = dims->n;
    for (uint32_t i = 0; i < dims->n; i++)
    {
        walk.extents[i] = dims->ints[perm->ints[i]];
        walk.strides[i] = steps[perm->ints[i]];
    }
    return walk;
}

/* The element there of the next element here; index counts along the axes here. */
static int64_t advance(const Walk *walk, int64_t *index, int64_t there)
{
    for (uint32_t axis = walk->rank; axis-- > 0;)
    {
        there += walk->strides[axis];
        if (++index[axis] < walk->extents[axis])
            return there;
        there -= walk->strides[axis] * walk->extents[axis];
        index[axis] = 0;
    }
    return there;
}

Status pretrained_read(const Pretrained *p, const IrGlobalData *param, float *dst)
{
    const NamedTensor *tensor;
    bool plain;
    PretrainedMatch match = pretrained_match(p, param, &tensor);
    ENSURE(match == PRETRAINED_EXACT || match == PRETRAINED_CAST);
    ENSURE(tensor_of(p, param, &plain) == tensor);
    const Walk walk = walk_of(param, plain);
    int64_t index[IR_MAX_RANK] = {0}, there = 0;
    const int64_t n = ir_type_n_elems(&param->type);
    for (int64_t i = 0; i < n; i++, there = advance(&walk, index, there))
    {
        dst[i] = number_at(tensor->elem, tensor->data, there);
        if (!isfinite(dst[i]))
            return status_fail(STATUS_BAD_INPUT, "'%s': element %lld of '%s' is %f", p->path, (long long)there,
                               tensor->name, (double)dst[i]);
    }
    return STATUS_OK;
}

void pretrained_lay_out(const IrGlobalData *param, const float *src, float *dst, NamedTensor *out_tensor)
{
    const Walk walk = walk_of(param, false);
    int64_t index[IR_MAX_RANK] = {0}, there = 0;
    const int64_t n = ir_type_n_elems(&param->type);
    for (int64_t i = 0; i < n; i++, there = advance(&walk, index, there))
        dst[there] = src[i];
    *out_tensor = (NamedTensor){.name = pretrained_name(param), .elem = ELEM_F32, .data = dst};
    out_tensor->rank = shape_there(param, false, out_tensor->dims);
}
