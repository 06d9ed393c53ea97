/* Pass partition, from its definition. For random training programs whose ops get random ascending units, and for the
 * examples: every op that an effect needs is kept on exactly one stage, that of its unit (masks, constants and scalars
 * that every update reads may be on several); sends and recvs are pairs of one (from, to, tag) and type; the stages'
 * programs, each run as far as what it received lets it, end without a deadlock, and what they do together is what the
 * whole program does, to the bit of an f64.
 * The number of seeds: PTC_RANDOM_SEEDS (40). */
#include "model.h"
#include "random_module.h"

#include "harness/test.h"
#include "ir/verify.h"
#include "passes/manager.h"
#include "passes/partition.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_OPS = 40,
    MAX_STAGES = 8
};

typedef struct
{
    Arena *arena;
    const char *what; /* for messages */
    const IrModule *whole;
    const int64_t *first_unit;
    int n_stages;
    IrModule *stages[MAX_STAGES]; /* ids of ops that are kept are those of a clone of whole */
} Case;

static void cut(Case *c)
{
    for (int s = 0; s < c->n_stages; s++)
    {
        IrModule *m = c->stages[s] = ir_module_clone(c->arena, c->whole);
        IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
        ir_attrs_put(c->arena, attrs, ir_attr_ints(IR_ATTR_stages, c->first_unit, (uint32_t)c->n_stages));
        ir_attrs_put(c->arena, attrs, ir_attr_int(IR_ATTR_stage, s));
        PassContext ctx = {.m = m, .scratch = c->arena, .diag = diag_create(c->arena)};
        assert_true(pass_partition(&ctx));
        const char *why;
        if (!ir_verify(c->arena, m, &why))
            fail_msg("%s, stage %d of %d: %s", c->what, s, c->n_stages, why);
    }
}

/* ---- every op on one stage */

static bool is_kept(const IrModule *stage, IrFunc func, IrOp wanted)
{
    IR_FOR_OPS(stage, func, op)
    if (op == wanted)
        return true;
    return false;
}

/* Made of constants, indices and inputs alone, reading a param, or without a unit behind the backward pass. */
static bool may_be_on_several(const bool *free_value, const IrOpData *op)
{
    if (op->code == IR_get || (op->unit == 0 && op->phase == IR_PHASE_OPTIMIZER))
        return true;
    for (uint32_t i = 0; i < op->n_results; i++)
        if (free_value[op->results[i]])
            return true;
    return false;
}

/* NULL, or which op is not where it should be. */
static const char *find_wrong_op(const Case *c, const char *func_name)
{
    const IrModule *m = ir_module_clone(c->arena, c->whole); /* numbered as the stages' were */
    IrFunc func = ir_func_find(m, func_name);
    bool *needed = ARENA_ARRAY(c->arena, bool, m->values.len), *is_free = ARENA_ARRAY(c->arena, bool, m->values.len);
    bool *wanted = ARENA_ARRAY(c->arena, bool, m->ops.len);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        bool is =
            data->code == IR_const || data->code == IR_iota ||
            (data->code == IR_get &&
             ir_global(m, ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global)))->kind == IR_GLOBAL_INPUT);
        bool all = data->n_operands > 0 && ir_code_has(data->code, IR_TRAIT_EWISE | IR_TRAIT_VIEW);
        for (uint32_t i = 0; i < data->n_operands; i++)
            all = all && is_free[data->operands[i]];
        for (uint32_t i = 0; i < data->n_results; i++)
            is_free[data->results[i]] = is || all;
    }
    for (IrOp op = ir_func(m, func)->last; op; op = ir_op(m, op)->prev)
    {
        const IrOpData *data = ir_op(m, op);
        wanted[op] = ir_code_has(data->code, IR_TRAIT_EFFECT);
        for (uint32_t i = 0; i < data->n_results; i++)
            wanted[op] = wanted[op] || needed[data->results[i]];
        for (uint32_t i = 0; wanted[op] && i < data->n_operands; i++)
            needed[data->operands[i]] = true;
    }
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        const int home = partition_stage_of_unit(c->first_unit, c->n_stages, data->unit);
        int n_kept = 0;
        bool at_home = false;
        for (int s = 0; s < c->n_stages; s++)
            if (is_kept(c->stages[s], func, op))
            {
                n_kept++;
                at_home = at_home || s == home;
            }
        bool several = may_be_on_several(is_free, data);
        bool right = !wanted[op] ? n_kept <= c->n_stages : several ? n_kept >= 1 : n_kept == 1 && at_home;
        if (!right)
            return arena_printf(c->arena, "@%s, op %u (%s, unit %u): kept on %d of %d stages, home is %d", func_name,
                                op, ir_op_info(data->code)->name, data->unit, n_kept, c->n_stages, home);
    }
    return NULL;
}

/* ---- pairs */

typedef struct
{
    int from, to;
    int64_t tag;
    IrType type;
    uint32_t n_sent, n_received;
} Message;

static Message *find_message(Message *messages, uint32_t *n, const Message *key)
{
    for (uint32_t i = 0; i < *n; i++)
        if (messages[i].from == key->from && messages[i].to == key->to && messages[i].tag == key->tag &&
            ir_type_equal(&messages[i].type, &key->type))
            return &messages[i];
    messages[*n] = *key;
    return &messages[(*n)++];
}

/* NULL, or which message has no other end. */
static const char *find_wrong_message(const Case *c, uint32_t *out_n)
{
    uint32_t n = 0, n_max = 1;
    for (int s = 0; s < c->n_stages; s++)
        n_max += c->stages[s]->ops.len;
    Message *messages = ARENA_ARRAY(c->arena, Message, n_max);
    for (int s = 0; s < c->n_stages; s++)
    {
        const IrModule *m = c->stages[s];
        IR_FOR_FUNCS(m, func)
        IR_FOR_OPS(m, func, op)
        {
            const IrOpData *data = ir_op(m, op);
            if (data->code != IR_send && data->code != IR_recv)
                continue;
            const int peer = (int)ir_attrs_int(&data->attrs, IR_ATTR_peer, -1);
            bool sends = data->code == IR_send;
            Message key = {.from = sends ? s : peer,
                           .to = sends ? peer : s,
                           .tag = ir_attrs_int(&data->attrs, IR_ATTR_tag, -1),
                           .type = *ir_value_type(m, sends ? data->operands[0] : data->results[0])};
            assert_true(peer >= 0 && peer < c->n_stages && peer != s && key.tag >= 0);
            Message *message = find_message(messages, &n, &key);
            message->n_sent += sends;
            message->n_received += !sends;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (messages[i].n_sent != 1 || messages[i].n_received != 1)
            return arena_printf(c->arena, "message %lld from %d to %d is sent %u times and received %u times",
                                (long long)messages[i].tag, messages[i].from, messages[i].to, messages[i].n_sent,
                                messages[i].n_received);
    *out_n = n;
    return NULL;
}

static uint32_t check_parts(const Case *c)
{
    uint32_t n = 0;
    IR_FOR_FUNCS(c->whole, func)
    {
        const char *why = find_wrong_op(c, ir_func(c->whole, func)->name);
        if (why)
            fail_msg("%s on %d stages: %s", c->what, c->n_stages, why);
    }
    const char *why = find_wrong_message(c, &n);
    if (why)
        fail_msg("%s on %d stages: %s", c->what, c->n_stages, why);
    return n;
}

/* ---- together they are the whole */

typedef struct
{
    int from, to;
    int64_t tag;
    IrValue value; /* in the joined program */
} Sent;

typedef struct
{
    Case *c;
    IrModule *m; /* the joined program */
    IrFunc func;
    IrOp at[MAX_STAGES];
    IrValue *map[MAX_STAGES]; /* by the stage's value */
    VEC(Sent) sent;
} Join;

/* False when the op waits for a message. */
static bool join_op(Join *j, int s, const IrOpData *op)
{
    Arena *arena = j->c->arena;
    const int peer = (int)ir_attrs_int(&op->attrs, IR_ATTR_peer, -1);
    const int64_t tag = ir_attrs_int(&op->attrs, IR_ATTR_tag, -1);
    IrValue operands[IR_MAX_RESULTS];
    IrType types[IR_MAX_RESULTS];
    assert_true(op->n_operands <= IR_MAX_RESULTS);
    for (uint32_t i = 0; i < op->n_operands; i++)
        operands[i] = j->map[s][op->operands[i]];
    if (op->code == IR_send)
    {
        vec_push(arena, &j->sent, (Sent){.from = s, .to = peer, .tag = tag, .value = operands[0]});
        return true;
    }
    if (op->code == IR_recv)
    {
        for (uint32_t i = 0; i < j->sent.len; i++)
            if (j->sent.data[i].from == peer && j->sent.data[i].to == s && j->sent.data[i].tag == tag)
            {
                j->map[s][op->results[0]] = j->sent.data[i].value;
                return true;
            }
        return false;
    }
    if (op->code == IR_set) /* by one stage is enough: others have the same value, of their own or received */
        IR_FOR_OPS(j->m, j->func, other)
    if (ir_op(j->m, other)->code == IR_set &&
        strcmp(ir_attrs_str(&ir_op(j->m, other)->attrs, IR_ATTR_global), ir_attrs_str(&op->attrs, IR_ATTR_global)) == 0)
        return true;
    for (uint32_t i = 0; i < op->n_results; i++)
        types[i] = *ir_value_type(j->c->stages[s], op->results[i]);
    IrOp copy = ir_op_insert(j->m, j->func, 0, op->code, operands, op->n_operands, types, op->n_results, op->attrs.data,
                             op->attrs.len);
    for (uint32_t i = 0; i < op->n_results; i++)
        j->map[s][op->results[i]] = ir_op_result(j->m, copy, i);
    return true;
}

static IrModule *join(Case *c, const char *func_name)
{
    Join j = {.c = c, .m = ir_module_clone(c->arena, c->whole)};
    j.func = ir_func_find(j.m, func_name);
    for (IrOp op = ir_func(j.m, j.func)->first, next; op; op = next)
    {
        next = ir_op(j.m, op)->next;
        ir_op_remove(j.m, op);
    }
    for (int s = 0; s < c->n_stages; s++)
    {
        j.at[s] = ir_func(c->stages[s], ir_func_find(c->stages[s], func_name))->first;
        j.map[s] = ARENA_ARRAY(c->arena, IrValue, c->stages[s]->values.len);
    }
    for (bool moved = true, all = false; !all;)
    {
        if (!moved)
            fail_msg("%s, @%s: a deadlock of %d stages", c->what, func_name, c->n_stages);
        moved = false;
        all = true;
        for (int s = 0; s < c->n_stages; s++)
        {
            for (; j.at[s] && join_op(&j, s, ir_op(c->stages[s], j.at[s])); moved = true)
                j.at[s] = ir_op(c->stages[s], j.at[s])->next;
            all = all && !j.at[s];
        }
    }
    return j.m;
}

static void check_numbers(Case *c, InterpEnv *(*run)(const IrModule *m, int64_t n), int64_t n)
{
    InterpEnv *a = run(c->whole, n), *b = run(join(c, "train"), n);
    const char *why = model_compare(c->arena, c->whole, a, b, 0);
    if (why)
        fail_msg("%s on %d stages: %s", c->what, c->n_stages, why);
    ir_interp_env_destroy(a);
    ir_interp_env_destroy(b);
}

/* ---- random programs */

static uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static InterpEnv *run_random(const IrModule *m, int64_t seed)
{
    InterpEnv *env = ir_interp_env_create();
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (strncmp(ir_global(m, g)->name, "in", 2) == 0)
            random_module_values(m, g, (uint64_t)seed, ir_interp_find(env, ir_global(m, g)->name));
    *ir_interp_find(env, "lr") = 0.0625;
    *ir_interp_find(env, "step") = 1;
    assert_int_equal(ir_interp_run(env, m, ir_func_find(m, "train")), STATUS_OK);
    return env;
}

static void test_random(void **state)
{
    (void)state;
    const char *text = getenv("PTC_RANDOM_SEEDS");
    const uint32_t n_seeds = text ? (uint32_t)strtoul(text, NULL, 10) : 40;
    uint32_t n_messages = 0, n_cut = 0;
    for (uint32_t seed = 1; seed <= n_seeds; seed++)
    {
        Arena *arena = arena_create();
        uint64_t bits = seed;
        IrModule *m = random_module(arena, seed, N_OPS);
        assert_true(random_module_make_trainable(m));
        uint32_t unit = 1;
        IR_FOR_OPS(m, ir_func_find(m, "train"), op)
        {
            unit += random_bits(&bits) % 8 == 0;
            ir_op(m, op)->unit = unit;
        }
        Diag *diag = diag_create(arena);
        if (pass_manager_run(&arena, &m, diag, "autodiff,optimizer", &(PassOptions){.verify_each = true}) == STATUS_OK)
        {
            int64_t first_unit[MAX_STAGES] = {1};
            Case c = {.arena = arena,
                      .what = arena_printf(arena, "seed %u", seed),
                      .whole = m,
                      .first_unit = first_unit,
                      .n_stages = 2 + (int)(seed % 4)};
            for (int s = 1; s < c.n_stages; s++)
                first_unit[s] = first_unit[s - 1] + 1 + (int64_t)(random_bits(&bits) % 3);
            cut(&c);
            n_messages += check_parts(&c);
            check_numbers(&c, run_random, seed);
            n_cut++;
        }
        arena_destroy(arena);
    }
    printf("%u of %u programs, %u messages\n", n_cut, n_seeds, n_messages);
    assert_true(n_cut > n_seeds / 2 && n_messages > n_cut);
}

/* ---- models */

static void check_model(const char *path, const char *sets, int64_t n_samples, const int64_t *first_unit, int n_stages)
{
    Arena *arena = arena_create();
    IrModule *m = model_load(arena, path, sets, 1);
    model_run_passes(&arena, &m, "make_eval,canonicalise,cse,dce,autodiff,optimizer,canonicalise,cse,dce");
    Case c = {.arena = arena, .what = path, .whole = m, .first_unit = first_unit, .n_stages = n_stages};
    cut(&c);
    uint32_t n = check_parts(&c);
    printf("%s on %d stages: %u messages\n", path, n_stages, n);
    assert_true(n >= 3 * (uint32_t)(n_stages - 1)); /* there, back, and there in @eval */
    check_numbers(&c, model_run, n_samples);
    join(&c, "eval");
    arena_destroy(arena);
}

static void test_models(void **state)
{
    (void)state;
    static const char *const paths[] = {"examples/vit-fashion-mnist.xml", "examples/vit-alibi.xml",
                                        "examples/vit-postnorm.xml", "examples/vit-rmsnorm-swiglu-rotary.xml"};
    static const int64_t two[] = {1, 3}, three[] = {1, 2, 4}, all[] = {1, 2, 3, 4, 5, 6, 7}, four[] = {1, 3, 5, 6};
    for (uint32_t i = 0; i < sizeof paths / sizeof *paths; i++)
    {
        check_model(paths[i], "d=8 layers=1 heads=2 hidden=8 patch=7 train.batch=3", 3, two, 2);
        check_model(paths[i], "d=8 layers=1 heads=2 hidden=8 patch=7 train.batch=3", 3, three, 3);
    }
    check_model("tests/ranks/tied.xml", "train.batch=3", 3, two, 2);
    check_model("tests/ranks/tied.xml", "train.batch=3", 3, four, 4);
    check_model("tests/ranks/tied.xml", "train.batch=3", 2, all, 7);
}

/* ---- the checks can fail */

static IrOp find_op(const IrModule *m, IrCode code)
{
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    if (ir_op(m, op)->code == code)
        return op;
    fail_msg("no such op");
    return 0;
}

static void test_can_fail(void **state)
{
    (void)state;
    static const int64_t two[] = {1, 3}, other[] = {1, 4};
    for (int fault = 0; fault < 4; fault++)
    {
        Arena *arena = arena_create();
        IrModule *m = model_load(arena, "tests/ranks/tied.xml", "train.batch=3", 1);
        model_run_passes(&arena, &m, "autodiff,optimizer,dce");
        Case c = {.arena = arena, .what = "tied", .whole = m, .first_unit = two, .n_stages = 2};
        uint32_t n;
        cut(&c);
        check_parts(&c);
        IrModule *stage = c.stages[1];
        if (fault == 0) /* an op is nowhere */
            ir_op_remove(stage, find_op(stage, IR_set));
        else if (fault == 1) /* ops are elsewhere */
            c.first_unit = other;
        else if (fault == 2) /* another tag */
            ir_attrs_put(arena, &ir_op(stage, find_op(stage, IR_recv))->attrs, ir_attr_int(IR_ATTR_tag, 1000));
        else /* nobody sends */
            ir_op_remove(stage, find_op(stage, IR_send));
        const char *why = fault < 2 ? find_wrong_op(&c, "train") : find_wrong_message(&c, &n);
        assert_non_null(why);
        printf("seen: %s\n", why);
        arena_destroy(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_models),
                                       cmocka_unit_test(test_can_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
