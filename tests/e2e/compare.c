/* Compares what a run left behind with what PyTorch recorded (tests/fixtures/NAME_losses.json) or with another run.
 *
 *   compare settings FIXTURE RUN                      prints the run's settings as --set=... words
 *   compare init FIXTURE                              prints the name of the file with its initial weights
 *   compare losses FIXTURE RUN METRICS BOUND          losses of the train rows, relative
 *   compare norms FIXTURE RUN METRICS BOUND           gradient norms of the train rows, relative
 *   compare weights FIXTURE RUN SAFETENSORS BOUND     sums over every tensor, relative to its sum of absolute values
 *   compare curves METRICS METRICS BOUND              losses of two runs, relative
 *   compare results EXPECTED CASE METRICS BOUND       what the last evaluation reports, relative to 1 + |expected|
 *   compare finite SAFETENSORS                        no number is infinite or NAN
 *   compare frozen SAFETENSORS SAFETENSORS PREFIX...  tensors whose names begin so are the same, of the others none is
 *
 * Prints the greatest difference. Exit code: 0 within BOUND, 1 not, 2 the files cannot be compared. */
#include "runtime/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_STEPS = 1000
};

__attribute__((format(printf, 1, 2), noreturn)) static void give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "compare: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    exit(2);
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *document = json_load_file(path, 0, &error);
    if (!document)
        give_up("%s:%d: %s", path, error.line, error.text);
    return document;
}

static json_t *member(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!value)
        give_up("there is no '%s'", key);
    return value;
}

static json_t *run_of(json_t *fixture, const char *run)
{
    return member(member(fixture, "runs"), run);
}

/* ---- settings */

static const struct
{
    const char *recorded;
    const char *set;
} names[] = {
    {"optimizer", "optimizer"},
    {"lr", "lr"},
    {"eps", "eps"},
    {"weight_decay", "weight_decay"},
    {"momentum", "momentum"},
    {"clip_norm", "clip_norm"},
    {"schedule", "schedule"},
    {"warmup", "warmup_steps"},
    {"precision", "precision"},
};

static int print_settings(json_t *run)
{
    json_t *settings = member(run, "settings");
    size_t n_known = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    {
        const json_t *value = json_object_get(settings, names[i].recorded);
        if (!value)
            continue;
        n_known++;
        if (json_is_string(value))
            printf("--set=train.%s=%s\n", names[i].set, json_string_value(value));
        else if (json_is_integer(value))
            printf("--set=train.%s=%lld\n", names[i].set, (long long)json_integer_value(value));
        else
            printf("--set=train.%s=%.17g\n", names[i].set, json_number_value(value));
    }
    const json_t *betas = json_object_get(settings, "betas");
    if (betas)
        printf("--set=train.beta1=%.17g\n--set=train.beta2=%.17g\n", json_number_value(json_array_get(betas, 0)),
               json_number_value(json_array_get(betas, 1)));
    if (!json_object_get(settings, "weight_decay"))
        printf("--set=train.weight_decay=0\n");
    n_known += betas != NULL;
    n_known += json_object_get(settings, "rule") != NULL;
    n_known += json_object_get(settings, "schedule_formula") != NULL;
    if (n_known != json_object_size(settings))
        give_up("a recorded setting is not known here");
    return 0;
}

/* ---- curves */

static size_t read_curve(const char *path, const char *key, double *out)
{
    FILE *file = fopen(path, "r");
    char line[4096];
    size_t n = 0;
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
            if (n == MAX_STEPS || json_integer_value(member(row, "step")) != (json_int_t)n + 1)
                give_up("%s: row %zu is not step %zu", path, n, n + 1);
            out[n++] = json_number_value(member(row, key));
        }
        json_decref(row);
    }
    fclose(file);
    return n;
}

static int judge(const char *what, double worst, const char *where, double bound)
{
    bool good = worst <= bound; /* false for NAN */
    printf("%s: greatest relative difference %.2e (%s), bound %.1e%s\n", what, worst, where, bound,
           good ? "" : ": TOO LARGE");
    return good ? 0 : 1;
}

static int compare_curves(const char *what, const double *have, size_t n_have, const double *want, size_t n_want,
                          double bound)
{
    if (n_have != n_want || n_have == 0)
        give_up("%s: %zu steps against %zu", what, n_have, n_want);
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n_have; i++)
    {
        double difference = fabs(have[i] - want[i]) / fabs(want[i]);
        if (!(difference <= worst))
        {
            worst = difference;
            at = i;
        }
    }
    char where[64];
    snprintf(where, sizeof where, "step %zu: %.9g, %.9g", at + 1, have[at], want[at]);
    return judge(what, worst, where, bound);
}

static int compare_recorded(json_t *run, const char *recorded, const char *metrics, const char *key, double bound)
{
    double have[MAX_STEPS], want[MAX_STEPS];
    const json_t *values = member(run, recorded);
    size_t n = json_array_size(values);
    if (n > MAX_STEPS)
        give_up("too many steps");
    for (size_t i = 0; i < n; i++)
        want[i] = json_number_value(json_array_get(values, i));
    return compare_curves(recorded, have, read_curve(metrics, key, have), want, n, bound);
}

/* ---- results */

static json_t *last_evaluation(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[4096];
    json_t *last = NULL;
    if (!file)
        give_up("cannot read %s", path);
    while (fgets(line, sizeof line, file))
    {
        json_t *row = json_loads(line, 0, NULL);
        const bool is_evaluation = row && strcmp(json_string_value(member(row, "split")), "eval") == 0;
        json_decref(is_evaluation ? last : row);
        last = is_evaluation ? row : last;
    }
    fclose(file);
    if (!last)
        give_up("%s: no evaluation", path);
    return last;
}

/* null: a result that is not defined. */
static int compare_results(json_t *expected, const char *metrics, double bound)
{
    json_t *row = last_evaluation(metrics), *want;
    const char *name, *where = "none";
    double worst = json_object_size(expected) ? 0 : INFINITY;
    json_object_foreach(expected, name, want)
    {
        const json_t *have = member(row, name);
        double difference = json_is_null(want) && json_is_null(have) ? 0 : INFINITY;
        if (json_is_number(want) && json_is_number(have))
            difference = fabs(json_number_value(have) - json_number_value(want)) / (1 + fabs(json_number_value(want)));
        if (!(difference <= worst))
        {
            worst = difference;
            where = name;
        }
    }
    int verdict = judge("results", worst, where, bound);
    json_decref(row);
    return verdict;
}

/* ---- weights */

static bool is_listed(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_array_get(list, i)), name) == 0)
            return true;
    return false;
}

static int compare_weights(json_t *fixture, json_t *run, const char *path, double bound)
{
    Safetensors *file;
    if (safetensors_open(path, &file) != STATUS_OK)
        give_up("%s", status_detail());
    const json_t *without_gradient = member(fixture, "zero_gradient");
    json_t *recorded = member(run, "final_weights");
    if (safetensors_count(file) != json_object_size(recorded))
        give_up("%u tensors against %zu", safetensors_count(file), json_object_size(recorded));
    double worst = 0;
    const char *where = "none", *name;
    json_t *sums;
    json_object_foreach(recorded, name, sums)
    {
        const NamedTensor *tensor = safetensors_find(file, name);
        if (!tensor || tensor->elem != ELEM_F32)
            give_up("no f32 tensor '%s'", name);
        if (is_listed(without_gradient, name))
            continue;
        double sum = 0, absolute = 0;
        for (size_t i = 0; i < safetensors_tensor_size_bytes(tensor) / sizeof(float); i++)
        {
            float value;
            memcpy(&value, (const char *)tensor->data + i * sizeof value, sizeof value);
            sum += (double)value;
            absolute += fabs((double)value);
        }
        double want_sum = json_number_value(json_array_get(sums, 0));
        double want_absolute = json_number_value(json_array_get(sums, 1));
        double difference = fmax(fabs(sum - want_sum), fabs(absolute - want_absolute)) / want_absolute;
        if (!(difference <= worst))
        {
            worst = difference;
            where = name;
        }
    }
    safetensors_close(file);
    return judge("weights", worst, where, bound);
}

static int check_finite(const char *path)
{
    Safetensors *file;
    if (safetensors_open(path, &file) != STATUS_OK)
        give_up("%s", status_detail());
    size_t n_bad = 0, n_all = 0;
    for (uint32_t i = 0; i < safetensors_count(file); i++)
    {
        const NamedTensor *tensor = safetensors_tensor(file, i);
        for (size_t j = 0; j < safetensors_tensor_size_bytes(tensor) / sizeof(float); j++)
        {
            float value;
            memcpy(&value, (const char *)tensor->data + j * sizeof value, sizeof value);
            n_bad += !isfinite(value);
            n_all++;
        }
    }
    safetensors_close(file);
    printf("%zu of %zu numbers are not finite\n", n_bad, n_all);
    return n_bad > 0 || n_all == 0;
}

static bool begins_with_any(const char *name, char **prefixes, int n)
{
    for (int i = 0; i < n; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static int check_frozen(const char *path, const char *other_path, char **prefixes, int n_prefixes)
{
    Safetensors *file, *other;
    if (safetensors_open(path, &file) != STATUS_OK || safetensors_open(other_path, &other) != STATUS_OK)
        give_up("%s", status_detail());
    uint32_t n_frozen = 0, n_others = 0, n_wrong = 0;
    for (uint32_t i = 0; i < safetensors_count(file); i++)
    {
        const NamedTensor *a = safetensors_tensor(file, i), *b = safetensors_find(other, a->name);
        const bool frozen = begins_with_any(a->name, prefixes, n_prefixes);
        if (!b)
            give_up("'%s' has no '%s'", other_path, a->name);
        const bool same = memcmp(a->data, b->data, safetensors_tensor_size_bytes(a)) == 0;
        n_frozen += frozen;
        n_others += !frozen;
        if (same != frozen)
            printf("'%s' is %s\n", a->name, same ? "the same" : "another one");
        n_wrong += same != frozen;
    }
    safetensors_close(file);
    safetensors_close(other);
    printf("%u frozen, %u others, %u wrong\n", n_frozen, n_others, n_wrong);
    return n_wrong > 0 || n_frozen == 0 || n_others == 0;
}

/* The verbs whose first argument is a fixture. */
static int compare_with_fixture(int argc, char **argv, json_t *fixture)
{
    const char *verb = argv[1];
    if (argc == 3 && strcmp(verb, "init") == 0)
        return printf("%s\n", json_string_value(member(fixture, "init_file"))) < 0;
    if (argc == 4 && strcmp(verb, "settings") == 0)
        return print_settings(run_of(fixture, argv[3]));
    if (argc == 6 && strcmp(verb, "results") == 0)
        return compare_results(member(fixture, argv[3]), argv[4], atof(argv[5]));
    if (argc == 6 && strcmp(verb, "losses") == 0)
        return compare_recorded(run_of(fixture, argv[3]), "losses", argv[4], "loss", atof(argv[5]));
    if (argc == 6 && strcmp(verb, "norms") == 0)
        return compare_recorded(run_of(fixture, argv[3]), "grad_norms", argv[4], "grad_norm", atof(argv[5]));
    if (argc == 6 && strcmp(verb, "weights") == 0)
        return compare_weights(fixture, run_of(fixture, argv[3]), argv[4], atof(argv[5]));
    give_up("see the comment at the top of compare.c");
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "finite") == 0)
        return check_finite(argv[2]);
    if (argc >= 5 && strcmp(argv[1], "frozen") == 0)
        return check_frozen(argv[2], argv[3], argv + 4, argc - 4);
    if (argc == 5 && strcmp(argv[1], "curves") == 0)
    {
        double have[MAX_STEPS], want[MAX_STEPS];
        size_t n_have = read_curve(argv[2], "loss", have), n_want = read_curve(argv[3], "loss", want);
        return compare_curves("losses", have, n_have, want, n_want, atof(argv[4]));
    }
    if (argc < 3)
        give_up("see the comment at the top of compare.c");
    json_t *fixture = load(argv[2]);
    int verdict = compare_with_fixture(argc, argv, fixture);
    json_decref(fixture);
    return verdict;
}
