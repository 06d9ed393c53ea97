/* Reads what `ptc plan --json` printed and checks what must hold of any plan:
 *   plan_json FILE N_UNITS N_PARAMS
 * Every unit is in one stage, in order; the params of the stages are those of the model; ranks are stages x replicas
 * and idle ones; one of the alternatives is the plan, and all others say why they lost; memory adds up; every order has
 * M F's and M B's. Prints "KxR M SCHEDULE: FIRST-LAST FIRST-LAST ...". Exit code: 0, 1 with a sentence, 2 no JSON. */
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(code);
}

static json_t *member(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!value)
        fail(1, "there is no '%s'", key);
    return value;
}

static long long number(json_t *object, const char *key)
{
    json_t *value = member(object, key);
    if (!json_is_integer(value))
        fail(1, "'%s' is no whole number", key);
    return json_integer_value(value);
}

static double real(json_t *object, const char *key)
{
    json_t *value = member(object, key);
    if (!json_is_number(value) || !(json_number_value(value) >= 0))
        fail(1, "'%s' is no number from 0", key);
    return json_number_value(value);
}

static void check_stage(json_t *stage, long long first, long long n_micro)
{
    static const char *const times[] = {"forward_flop", "backward_flop", "forward_ms", "backward_ms", "update_ms"};
    json_t *memory = member(stage, "memory");
    const char *order = json_string_value(member(stage, "order"));
    long long n_forward = 0, n_backward = 0;
    if (number(stage, "first_unit") != first || number(stage, "last_unit") < first)
        fail(1, "a stage has the units %lld to %lld, not from %lld", number(stage, "first_unit"),
             number(stage, "last_unit"), first);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        real(stage, times[i]);
    long long sum = number(memory, "params") + number(memory, "optimizer") + number(memory, "arena") +
                    number(memory, "inputs") + number(memory, "messages");
    if (number(memory, "total") != sum || sum <= 0)
        fail(1, "memory is %lld in all, but %lld in parts", number(memory, "total"), sum);
    for (const char *c = order ? order : ""; *c; c++)
    {
        n_forward += *c == 'F';
        n_backward += *c == 'B';
    }
    if (n_forward != n_micro || n_backward != n_micro)
        fail(1, "the order '%s' is not one of %lld micro-batches", order, n_micro);
}

static void check_alternatives(json_t *plan)
{
    json_t *list = member(plan, "alternatives");
    size_t n_chosen = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
    {
        json_t *one = json_array_get(list, i);
        bool chosen = json_is_true(member(one, "chosen"));
        const char *why = json_string_value(member(one, "why"));
        if (!why || chosen != (*why == 0))
            fail(1, "alternative %zu does not say why it lost, or says it though it won", i);
        n_chosen += chosen;
        if (real(one, "step_ms") < real(plan, "step_ms") && !strstr(why, "MiB"))
            fail(1, "alternative %zu is faster", i);
        if (chosen && real(one, "step_ms") > real(plan, "step_ms"))
            fail(1, "the plan is not the one that was chosen");
    }
    if (n_chosen != 1)
        fail(1, "%zu alternatives are chosen", n_chosen);
}

int main(int argc, char **argv)
{
    json_error_t error;
    if (argc != 4)
        fail(2, "usage: plan_json FILE N_UNITS N_PARAMS");
    json_t *plan = json_load_file(argv[1], 0, &error);
    if (!plan)
        fail(2, "%s:%d: %s", argv[1], error.line, error.text);
    long long k = number(plan, "stages"), r = number(plan, "replicas"), m = number(plan, "micro_batches");
    long long unit = 1, n_params = 0, param_bytes = 0;
    json_t *stages = member(plan, "per_stage"), *first_units = member(plan, "first_units");
    if (k * r + number(plan, "idle") != number(plan, "ranks") || json_array_size(stages) != (size_t)k ||
        json_array_size(first_units) != (size_t)k)
        fail(1, "%lld stages x %lld replicas, %lld ranks, %zu stages listed", k, r, number(plan, "ranks"),
             json_array_size(stages));
    printf("%lldx%lld %lld %s:", k, r, m, json_string_value(member(plan, "schedule")));
    for (long long i = 0; i < k; i++)
    {
        json_t *stage = json_array_get(stages, (size_t)i);
        if (json_integer_value(json_array_get(first_units, (size_t)i)) != unit)
            fail(1, "first_units and per_stage differ");
        check_stage(stage, unit, r == 1 ? m : (m + r - 1) / r);
        unit = number(stage, "last_unit") + 1;
        n_params += number(stage, "params");
        param_bytes += number(member(stage, "memory"), "params");
        printf(" %lld-%lld", number(stage, "first_unit"), number(stage, "last_unit"));
    }
    printf("\n");
    if (unit - 1 != atoll(argv[2]))
        fail(1, "the stages end at unit %lld of %s", unit - 1, argv[2]);
    if (n_params != atoll(argv[3]) || param_bytes < 4 * n_params)
        fail(1, "the stages have %lld params in %lld bytes, the model %s", n_params, param_bytes, argv[3]);
    check_alternatives(plan);
    json_decref(plan);
    return 0;
}
