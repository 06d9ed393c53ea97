/* Compares one step of a model of examples/zoo with what Hugging Face computed (tests/fixtures/zoo_hf.py).
 *
 *   zoo_compare file FOLDER                     prints the name of the model file
 *   zoo_compare flags FOLDER                    prints the flags of a run of one step on the folder's data
 *   zoo_compare step FOLDER MODEL OUT BOUND     the loss, relative, and the gradient of every param, by norms
 *   zoo_compare same FOLDER EXPORT              the tensors of both: names, shapes and numbers
 *   zoo_compare moved FOLDER EXPORT             the same, but the numbers are others
 *   zoo_compare config FOLDER EXPORT            what the source's config.json says, the export's says too
 *
 * The run is one step of SGD, so weights before - weights after = lr * gradient; lr is so large that nothing of the
 * gradient is lost in the difference, and a power of two. Params are matched with the tensors of Hugging Face as
 * --weights does. Exit code: 0 within BOUND, 1 not, 2 the files cannot be compared. */
#include "frontend/frontend.h"
#include "runtime/pretrained.h"
#include "runtime/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double lr = 524288;

/* Of the norm of all gradients: errors of what is smaller are relative to this. The gradient of the bias of keys is 0
 * but for rounding, since softmax does not see it. */
static const double small = 1e-3;

__attribute__((format(printf, 1, 2), noreturn)) static void give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "zoo_compare: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(2);
}

static json_t *load(Arena *arena, const char *folder)
{
    json_error_t error;
    json_t *expected = json_load_file(arena_printf(arena, "%s/expected.json", folder), 0, &error);
    if (!expected)
        give_up("%s/expected.json:%d: %s", folder, error.line, error.text);
    return expected;
}

static json_t *member(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!value)
        give_up("there is no '%s'", key);
    return value;
}

typedef VEC(const char *) Sets;

/* What --set says: the dimensions that config.json does not tell, the data, and one plain step. */
static Sets sets_of(Arena *arena, const char *folder, json_t *expected)
{
    Sets sets = {0};
    const char *name;
    json_t *value;
    size_t i;
    const int batch = (int)json_integer_value(member(expected, "batch"));
    json_object_foreach(member(expected, "dims"), name, value)
        vec_push(arena, &sets, arena_printf(arena, "%s=%d", name, (int)json_integer_value(value)));
    json_array_foreach(member(expected, "inputs"), i, value)
    {
        name = json_string_value(value);
        vec_push(arena, &sets, arena_printf(arena, "data.%s.format=idx", name));
        vec_push(arena, &sets, arena_printf(arena, "data.%s.train=%s/%s.idx", name, folder, name));
    }
    vec_push(arena, &sets, arena_printf(arena, "data.train_limit=%d", batch));
    vec_push(arena, &sets, "data.shuffle=false");
    vec_push(arena, &sets, arena_printf(arena, "train.batch=%d", batch));
    vec_push(arena, &sets, arena_printf(arena, "train.lr=%.0f", lr));
    static const char *const plain[] = {"optimizer=sgd",  "momentum=0",  "weight_decay=0",    "clip_norm=0",
                                        "warmup_steps=0", "max_steps=1", "schedule=constant", "epochs=1"};
    for (i = 0; i < sizeof plain / sizeof *plain; i++)
        vec_push(arena, &sets, arena_printf(arena, "train.%s", plain[i]));
    return sets;
}

static Job *load_job(Arena *arena, const char *model, const char *folder, const Sets *sets)
{
    Diag *diag = diag_create(arena);
    Job *job;
    FrontendOptions options = {.overrides = sets->data, .n_overrides = sets->len, .weights = folder};
    if (frontend_load(arena, diag, model, &options, &job) != STATUS_OK)
    {
        diag_print(diag, stderr, false);
        give_up("%s is not a model", model);
    }
    return job;
}

static double loss_of_first_step(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[4096];
    if (!file)
        give_up("cannot read %s", path);
    while (fgets(line, sizeof line, file))
    {
        json_error_t error;
        json_t *row = json_loads(line, 0, &error);
        if (!row)
            give_up("%s: %s", path, error.text);
        if (strcmp(json_string_value(member(row, "split")), "train") == 0)
        {
            double loss = json_number_value(member(row, "loss"));
            json_decref(row);
            fclose(file);
            return loss;
        }
        json_decref(row);
    }
    give_up("%s has no row of a step", path);
}

static Pretrained *open_weights(const char *path)
{
    Pretrained *weights;
    if (pretrained_open(path, &weights) != STATUS_OK)
        give_up("%s", status_detail());
    return weights;
}

static const float *read_param(Arena *arena, const Pretrained *weights, const IrGlobalData *param)
{
    float *values = ARENA_ARRAY(arena, float, (size_t)ir_type_n_elems(&param->type));
    const NamedTensor *tensor;
    PretrainedMatch match = pretrained_match(weights, param, &tensor);
    if (match != PRETRAINED_EXACT && match != PRETRAINED_CAST)
        give_up("there is no '%s' for param %s", pretrained_name(param), param->name);
    if (pretrained_read(weights, param, values) != STATUS_OK)
        give_up("%s", status_detail());
    return values;
}

typedef struct
{
    const IrGlobalData *param;
    double distance, norm;
} Gradient;

static Gradient compare_param(Arena *arena, const IrGlobalData *param, const Pretrained *before,
                              const Safetensors *after, const Pretrained *gradients)
{
    Gradient result = {.param = param};
    const float *old = read_param(arena, before, param), *want = read_param(arena, gradients, param);
    const NamedTensor *tensor = safetensors_find(after, param->name);
    const int64_t n = ir_type_n_elems(&param->type);
    if (!tensor || tensor->elem != ELEM_F32 || safetensors_tensor_size_bytes(tensor) != (uint64_t)n * sizeof(float))
        give_up("the checkpoint has no param '%s'", param->name);
    for (int64_t i = 0; i < n; i++)
    {
        float new;
        memcpy(&new, (const char *)tensor->data + (size_t)i * sizeof new, sizeof new);
        const double have = ((double)old[i] - (double)new) / lr;
        result.distance += (have - (double)want[i]) * (have - (double)want[i]);
        result.norm += (double)want[i] * (double)want[i];
    }
    result.distance = sqrt(result.distance);
    result.norm = sqrt(result.norm);
    return result;
}

static int compare_step(Arena *arena, const char *folder, const char *model, const char *out, double bound)
{
    json_t *expected = load(arena, folder);
    const Sets sets = sets_of(arena, folder, expected);
    const IrModule *m = load_job(arena, model, folder, &sets)->module;
    Pretrained *before = open_weights(folder);
    Pretrained *gradients = open_weights(arena_printf(arena, "%s/gradients.safetensors", folder));
    Safetensors *after;
    const char *checkpoint = arena_printf(arena, "%s/checkpoints/step-00000001/model.safetensors", out);
    if (safetensors_open(checkpoint, &after) != STATUS_OK)
        give_up("%s", status_detail());

    const double want = json_number_value(member(expected, "loss"));
    const double have = loss_of_first_step(arena_printf(arena, "%s/metrics.jsonl", out));
    const double loss_error = fabs(have - want) / fabs(want);
    bool good = loss_error <= bound;
    if (!good)
        printf("loss %.9g, expected %.9g\n", have, want);

    VEC(Gradient) all = {0};
    double total = 0, worst = 0;
    const char *where = "none";
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_PARAM)
            vec_push(arena, &all, compare_param(arena, ir_global(m, g), before, after, gradients));
    for (uint32_t i = 0; i < all.len; i++)
        total += all.data[i].norm * all.data[i].norm;
    for (uint32_t i = 0; i < all.len; i++)
    {
        const Gradient *a = &all.data[i];
        const double error = a->distance / fmax(a->norm, small * sqrt(total));
        if (!(error <= bound))
        {
            printf("gradient of %s (%s) is off by %.2e of its norm %.3e\n", pretrained_name(a->param), a->param->name,
                   error, a->norm);
            good = false;
        }
        if (!(error <= worst))
        {
            worst = error;
            where = pretrained_name(a->param);
        }
    }
    printf("loss: relative difference %.1e; %u gradients of %u tensors: greatest %.1e (%s), bound %.1e%s\n", loss_error,
           all.len, pretrained_count(gradients), worst, where, bound, good ? "" : ": TOO LARGE");
    if (all.len != pretrained_count(gradients))
        give_up("%u params, %u gradients", all.len, pretrained_count(gradients));
    safetensors_close(after);
    pretrained_close(gradients);
    pretrained_close(before);
    json_decref(expected);
    return good ? 0 : 1;
}

/* ---- exports */

/* As f32, in the layout of the file. */
static const float *read_tensor(Arena *arena, const Pretrained *weights, const NamedTensor *tensor)
{
    IrGlobalData plain = {.name = tensor->name, .type = {.dtype = DT_F32, .rank = (uint8_t)tensor->rank}};
    memcpy(plain.type.dims, tensor->dims, sizeof *tensor->dims * tensor->rank);
    return read_param(arena, weights, &plain);
}

/* moved: after a step, which has moved nearly all of them; the bias of keys has no gradient. */
static int compare_tensors(Arena *arena, const char *folder, const char *export, bool moved)
{
    Pretrained *there = open_weights(folder), *here = open_weights(export);
    const uint32_t n = pretrained_count(there);
    uint32_t n_same = 0, n_other = 0;
    bool fit = n == pretrained_count(here);
    for (uint32_t i = 0; i < n; i++)
    {
        const NamedTensor *want = pretrained_tensor(there, i), *have = pretrained_find(here, want->name);
        if (!have || have->elem != ELEM_F32 || have->rank != want->rank ||
            memcmp(have->dims, want->dims, sizeof *want->dims * want->rank) != 0)
        {
            printf("%s: %s\n", want->name, have ? "another type or shape" : "missing");
            fit = false;
        }
        else if (memcmp(read_tensor(arena, there, want), read_tensor(arena, here, have),
                        (size_t)safetensors_tensor_size_bytes(have)) == 0)
            n_same++;
        else
            n_other++;
    }
    printf("%u tensors, %u in the export, %u the same, %u not\n", n, pretrained_count(here), n_same, n_other);
    pretrained_close(there);
    pretrained_close(here);
    return !fit || (moved ? n_same > n / 4 : n_other > 0);
}

/* All keys but those of how the numbers are stored; what was null may have its value. */
static int compare_configs(Arena *arena, const char *folder, const char *export)
{
    int n_wrong = 0;
    json_t *want = json_load_file(arena_printf(arena, "%s/config.json", folder), 0, NULL);
    json_t *have = json_load_file(arena_printf(arena, "%s/config.json", export), 0, NULL), *value;
    const char *key;
    if (!want || !have)
        give_up("%s and %s have no config.json", folder, export);
    json_object_foreach(want, key, value)
    {
        if (strcmp(key, "dtype") == 0 || json_is_null(value) || json_equal(value, json_object_get(have, key)))
            continue;
        printf("config.json: another '%s'\n", key);
        n_wrong++;
    }
    json_decref(want);
    json_decref(have);
    return n_wrong > 0;
}

int main(int argc, char **argv)
{
    Arena *arena = arena_create();
    int status = 0;
    if (argc == 3 && strcmp(argv[1], "file") == 0)
    {
        json_t *expected = load(arena, argv[2]);
        printf("%s\n", json_string_value(member(expected, "file")));
        json_decref(expected);
    }
    else if (argc == 3 && strcmp(argv[1], "flags") == 0)
    {
        json_t *expected = load(arena, argv[2]);
        const Sets sets = sets_of(arena, argv[2], expected);
        for (uint32_t i = 0; i < sets.len; i++)
            printf("--set=%s\n", sets.data[i]);
        json_decref(expected);
    }
    else if (argc == 6 && strcmp(argv[1], "step") == 0)
        status = compare_step(arena, argv[2], argv[3], argv[4], atof(argv[5]));
    else if (argc == 4 && (strcmp(argv[1], "same") == 0 || strcmp(argv[1], "moved") == 0))
        status = compare_tensors(arena, argv[2], argv[3], argv[1][0] == 'm');
    else if (argc == 4 && strcmp(argv[1], "config") == 0)
        status = compare_configs(arena, argv[2], argv[3]);
    else
        give_up("usage: zoo_compare file|flags|step|same|moved|config FOLDER [MODEL OUT BOUND]");
    arena_destroy(arena);
    return status;
}
