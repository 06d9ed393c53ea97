/* What the elements mean: small graphs run by the reference interpreter, compared with numbers worked out by hand. Each
 * row's body makes one value that is the same for every sample; the loss is its sum over the other axes. */
#include "frontend/frontend.h"
#include "harness/test.h"
#include "ir/interp.h"

#include <math.h>
#include <string.h>

enum
{
    BATCH = 2
};

typedef struct
{
    const char *name;
    const char *body;
    double loss; /* per sample */
} Row;

/* `n` is [b 2 3] with elements 0..5 in every sample; weights make the sum tell where each element went. */
static const Row rows[] = {
    {"sum of 0..5", "<map expr='n'/>", 15},
    {"map with numbers", "<map expr='2 * n ^ 2 - {k}'/>", 2 * 55 - 6 * 3},
    {"transpose", "<rearrange in='n' pattern='b i j -> b j i'/><map expr='_ * w32'/>",
     0 * 0 + 3 * 1 + 1 * 2 + 4 * 3 + 2 * 4 + 5 * 5},
    {"merge", "<rearrange in='n' pattern='b i j -> b (i j)'/><map expr='_ * w6'/>", 55},
    {"merge swapped", "<rearrange in='n' pattern='b i j -> b (j i)'/><map expr='_ * w6'/>", 50},
    {"split and permute",
     "<rearrange in='n' pattern='b i j -> b (i j)'/><rearrange pattern='b (r c) -> b c r' sizes='c=2'/><map expr='_ * "
     "w23'/>",
     0 * 0 + 2 * 1 + 4 * 2 + 1 * 3 + 3 * 4 + 5 * 5},
    {"repeat an axis", "<rearrange in='n' pattern='b i j -> b i q j' sizes='q=4'/>", 60},
    {"axes of one",
     "<rearrange in='n' pattern='b i j -> b 1 (i j) 1'/><rearrange pattern='b 1 s 1 -> b s'/><map expr='_ * w6'/>", 55},
    {"ellipsis",
     "<rearrange in='n' pattern='b ... -> ... b'/><rearrange pattern='i j b -> b i j'/><map expr='_ * w23'/>", 55},
    {"reduce sum", "<reduce in='n' op='sum' pattern='b i j -> b j'/><map expr='_ * w3'/>", 3 * 0 + 5 * 1 + 7 * 2},
    {"reduce mean keeps an axis",
     "<reduce in='n' op='mean' pattern='b i j -> b i 1'/><map expr='_ + 0 * n'/><map expr='_ * w23'/>",
     1 * (0 + 1 + 2) + 4 * (3 + 4 + 5)},
    {"reduce max and min",
     "<reduce name='hi' in='n' op='max' pattern='b i j -> b'/><reduce name='lo' in='n' op='min' pattern='b i j -> "
     "b'/><map expr='10 * hi + lo'/>",
     50},
    {"argmax takes the first",
     "<map expr='select(n >= 4, 4, n)'/><reduce op='argmax' pattern='b i j -> b i'/><map expr='f32(_) * w2'/>",
     0 * 2 + 1 * 1},
    {"einsum", "<einsum in='n w32' expr='b i j, j m -> b i m'/><map expr='_ * w22'/>",
     /* n = [0 1 2; 3 4 5], w32 = [0 1; 2 3; 4 5]: product [10 13; 28 40] */ 10 * 0 + 13 * 1 + 28 * 2 + 40 * 3},
    {"einsum with long names and a transposed result",
     "<einsum in='n w32' expr='b row inner, inner col -> b col row'/><map expr='_ * w22'/>",
     10 * 0 + 28 * 1 + 13 * 2 + 40 * 3},
    {"einsum takes the value before first",
     "<map expr='n'/><einsum in='w32' expr='... j, j m -> ... m'/><map expr='_ * w22'/>",
     10 * 0 + 13 * 1 + 28 * 2 + 40 * 3},
    {"einsum of the batch", "<einsum in='n n' expr='b i j, b i j -> b i'/>", 55},
    {"gather",
     "<iota name='back' shape='b 2'/><map name='rev' expr='1 - back'/><slice in='rev' axis='1' start='0' size='2' "
     "name='ix'/><gather in='w22 ix'/><map expr='f32(_) * 1'/>",
     /* sample rows 1 and 0 of w22 = [0 1; 2 3]; iota counts 0, 1 along axis 1 */ 6},
    {"concat", "<concat in='n n' axis='-1'/><slice axis='2' start='2' size='2'/>", 2 + 0 + 5 + 3},
    {"slice one index", "<slice in='n' axis='2' index='-1'/><map expr='_ * w2'/>", 5},
    {"pad", "<pad in='n' axis='1' before='1' value='7'/>", 15 + 21},
    {"iota", "<iota shape='b 3 2' axis='1'/><map expr='f32(_)'/>", 0 + 0 + 1 + 1 + 2 + 2},
    {"softmax", "<softmax in='n'/>", 2},
    {"layer_norm", "<layer_norm in='n ones3 zeros3' eps='0'/><map expr='_ * w23'/>", 2 * 2 * 1.224744871391589},
    {"rms_norm", "<map expr='0 * n + 3'/><rms_norm in='ones3' eps='0'/>", 6},
    {"dropout of nothing", "<dropout in='n' p='0'/>", 15},
    {"attention is a mean when scores are equal",
     "<rearrange name='kv' in='n' pattern='b i (h e) -> b i h e' sizes='h=1'/><map name='q' expr='0 * kv'/><attention "
     "in='q kv kv'/>",
     15},
    {"causal attention",
     "<rearrange name='kv' in='n' pattern='b i (h e) -> b i h e' sizes='h=1'/><map name='q' expr='0 * kv'/><attention "
     "in='q kv kv' causal='true'/><rearrange pattern='b i h e -> b i (h e)'/><map expr='_ * w23'/>",
     (0 * 0 + 1 * 1 + 2 * 2) + (1.5 * 3 + 2.5 * 4 + 3.5 * 5)},
    {"attention with a bias",
     "<rearrange name='kv' in='n' pattern='b i (h e) -> b i h e' sizes='h=1'/><map name='q' expr='0 * kv'/><iota "
     "name='col' shape='1 1 2 2' axis='3' dtype='f32'/><map name='bias' expr='col * -1e9'/><attention in='q kv kv "
     "bias'/>",
     6},
    {"if and else", "<if test='k == 3 &amp;&amp; !(k &lt; 3)'><map expr='n'/><else><map expr='0 * n'/></else></if>",
     15},
    {"else", "<if test='k != 3'><map expr='n'/><else><map expr='2 * n'/></else></if>", 30},
    {"repeat carries", "<repeat count='3' index='r' carry='h' in='n'><map expr='h + {r}'/></repeat>",
     15 + 6 * (0 + 1 + 2)},
    {"repeat of no rounds", "<map expr='n'/><repeat count='0'><map expr='0 * _'/></repeat>", 15},
    {"block", "<use block='scaled' in='n' by='{k}'/>", 45},
    {"block with a default", "<use block='scaled' in='n'/>", 30},
    {"block binds axes", "<use block='size' in='n'/>", 6 * 23},
    {"nested blocks", "<use block='twice' in='n'/>", 60},
    {"arithmetic", "<map expr='0 * n + {max(k, 2) * (7 - k) % 5 - -1}'/>", 6 * 3},
};

static const char *model_text(Arena *arena, const char *body)
{
    StrBuf buf = strbuf_make(arena);
    strbuf_add(&buf, "<model name='t'><dim name='k' value='3'/>"
                     "<define name='scaled' in='v' params='by=2'><map expr='v * {by}'/></define>"
                     "<define name='size' in='v[b i j]'><map expr='0 * v + {10 * i + j}'/></define>"
                     "<define name='twice' in='v'><use block='scaled'/><use block='scaled'/></define>"
                     "<data train_limit='4'><field name='x' format='synthetic'/></data>"
                     "<train epochs='1' batch='2' optimizer='sgd' lr='1'/>"
                     "<input name='x' dtype='f32' shape='b'/>");
    static const char *const tables[][2] = {{"w2", "2"},    {"w3", "3"},    {"w6", "6"},
                                            {"w22", "2 2"}, {"w23", "2 3"}, {"w32", "3 2"}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
    { /* 0, 1, 2, ... in row-major order */
        const char *shape = tables[i][1];
        if (strlen(shape) == 1)
            strbuf_addf(&buf, "<iota name='%s' shape='%s' dtype='f32'/>", tables[i][0], shape);
        else
            strbuf_addf(&buf,
                        "<iota name='%s_n' shape='%d' dtype='f32'/><rearrange name='%s' pattern='(r c) -> r c' "
                        "sizes='r=%c'/>",
                        tables[i][0], (shape[0] - '0') * (shape[2] - '0'), tables[i][0], shape[0]);
    }
    strbuf_add(&buf, "<map name='ones3' expr='0 * w3 + 1'/><map name='zeros3' expr='0 * w3'/>"
                     "<rearrange name='x3' in='x' pattern='b -> b 1 1'/><map name='n' expr='0 * x3 + w23'/>");
    strbuf_add(&buf, body);
    return strbuf_text(&buf);
}

/* The loss of the body, in every one of its axes summed. NAN after an error. */
static double run_body(const char *body)
{
    Arena *arena = arena_create();
    StrBuf text = strbuf_make(arena);
    strbuf_add(&text, model_text(arena, body));
    strbuf_add(&text, "<loss/></model>");
    Diag *diag = diag_create(arena);
    const FrontendOptions options = {0};
    Job *job = NULL;
    double loss = NAN;
    if (frontend_load_text(arena, diag, "test.xml", strbuf_text(&text), text.len, &options, &job) == STATUS_OK)
    {
        InterpEnv *env = ir_interp_env_create();
        double mask[BATCH] = {1, 1}, sum = 0;
        ir_interp_bind(env, "batch.mask", mask);
        ir_interp_bind(env, "loss.sum", &sum);
        ir_interp_bind_rest(env, job->module);
        assert_int_equal(ir_interp_run(env, job->module, ir_func_find(job->module, "train")), STATUS_OK);
        loss = sum / BATCH;
        ir_interp_env_destroy(env);
    }
    diag_print(diag, stderr, false);
    arena_destroy(arena);
    return loss;
}

static void elements_mean_what_they_say(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    {
        double loss = run_body(rows[i].body);
        if (!(fabs(loss - rows[i].loss) <= 1e-9 * (1 + fabs(rows[i].loss))))
        {
            print_error("%s: %.12g, expected %.12g\n", rows[i].name, loss, rows[i].loss);
            failures++;
        }
    }
    assert_int_equal(failures, 0);
}

/* Padding: rows with mask 0 count neither in the sum nor in the weight. */
static void losses_are_weighted_means(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    StrBuf text = strbuf_make(arena);
    strbuf_add(&text,
               model_text(arena, "<iota name='row' shape='b 3' axis='0' dtype='f32'/><map name='value' expr='row + 5'/>"
                                 "<map name='weight' expr='w3'/><loss value='value' weight='weight'/>"
                                 "<map expr='row > 0'/><metric name='late'/></model>"));
    Diag *diag = diag_create(arena);
    const FrontendOptions options = {0};
    Job *job = NULL;
    Status status = frontend_load_text(arena, diag, "test.xml", strbuf_text(&text), text.len, &options, &job);
    diag_print(diag, stderr, false);
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(job->n_metrics, 1);
    assert_string_equal(job->metrics[0].name, "late");
    for (int padded = 0; padded < 3; padded++)
    {
        InterpEnv *env = ir_interp_env_create();
        double mask[BATCH] = {padded < 2, padded < 1};
        ir_interp_bind(env, "batch.mask", mask);
        ir_interp_bind_rest(env, job->module);
        assert_int_equal(ir_interp_run(env, job->module, ir_func_find(job->module, "train")), STATUS_OK);
        /* weights 0 + 1 + 2 a row; values 5 in row 0, 6 in row 1 */
        const double sums[] = {33, 15, 0}, weights[] = {6, 3, 0}, losses[] = {5.5, 5, 0}, late[] = {3, 0, 0};
        assert_true(*ir_interp_find(env, "loss.sum") == sums[padded]);
        assert_true(*ir_interp_find(env, "loss.weight") == weights[padded]);
        assert_true(*ir_interp_find(env, "loss") == losses[padded]);
        assert_true(*ir_interp_find(env, "late.sum") == late[padded]);
        ir_interp_env_destroy(env);
    }
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_mean_what_they_say),
        cmocka_unit_test(losses_are_weighted_means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
