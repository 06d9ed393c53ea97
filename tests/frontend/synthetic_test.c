/* Jobs without their files: the random values of a field keep to what its format promises. */
#include "frontend/frontend.h"
#include "harness/test.h"

#include <math.h>
#include <string.h>

typedef struct
{
    const char *field; /* attributes of the <field>, but for its name and files */
    const char *input; /* of its <input> */
    double low, high;
} Row;

static const Row rows[] = {
    {"format='idx'", "dtype='u8' shape='b 4'", 0, 255},
    {"format='idx' classes='10'", "dtype='u8' shape='b'", 0, 9},
    {"format='idx'", "dtype='i32' shape='b'", 0, 1},
    {"format='images' part='image'", "dtype='u8' shape='b 8 8 3'", 0, 255},
    {"format='images' part='image'", "dtype='f32' shape='b 8 8 3'", 0, 1},
    {"format='images' part='image' mean='0.5 0.4 0.3' std='0.5 0.2 0.1'", "dtype='f32' shape='b 8 8 3'", -3, 7},
    {"format='images' part='label' classes='5'", "dtype='i32' shape='b'", 0, 4},
    {"format='cifar' part='coarse' classes='20'", "dtype='i32' shape='b'", 0, 19},
    {"format='text' columns='c' tokenizer='t' part='ids' classes='100'", "dtype='i32' shape='b 6'", 0, 99},
    {"format='text' columns='c' tokenizer='t' part='types'", "dtype='i32' shape='b 6'", 0, 1},
    {"format='text' columns='c' tokenizer='t' part='mask'", "dtype='i32' shape='b 6'", 1, 1},
    {"format='text' columns='c' tokenizer='t' part='mask'", "dtype='f32' shape='b 6'", 1 - 1e-6, 1},
    {"format='packed' columns='c' tokenizer='t' part='documents'", "dtype='i32' shape='b 6'", 0, 0},
    {"format='label' columns='c' classes='3'", "dtype='i32' shape='b'", 0, 2},
    {"format='number' columns='c'", "dtype='f32' shape='b'", 0, 1},
    {"format='squad' tokenizer='t' part='first'", "dtype='i32' shape='b'", 0, 11},
    {"format='squad' tokenizer='t' part='last'", "dtype='i32' shape='b'", 0, 11},
    {"format='squad' tokenizer='t' part='ids' classes='100'", "dtype='i32' shape='b 12'", 0, 99},
};

static Job *load(Arena *arena, const char *text, const FrontendOptions *options)
{
    Diag *diag = diag_create(arena);
    Job *job = NULL;
    if (frontend_load_text(arena, diag, "test.xml", text, strlen(text), options, &job) != STATUS_OK)
    {
        diag_print(diag, stderr, false);
        fail_msg("the model does not load");
    }
    return job;
}

static void ranges_are_those_of_formats(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    StrBuf model = strbuf_make(arena);
    strbuf_add(&model,
               "<model name='t'><dim name='n' value='12'/><data train_limit='4' buckets='n: 6' group_by_length='2'>");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        strbuf_addf(&model, "<field name='f%zu' %s train='nowhere' test='nowhere'/>", i, rows[i].field);
    strbuf_add(&model, "<field name='own' format='synthetic' low='-1' high='2'/></data>"
                       "<train epochs='1' batch='2' optimizer='sgd' lr='1' weights='nowhere'/>");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        strbuf_addf(&model, "<input name='f%zu' %s/>", i, rows[i].input);
    strbuf_add(&model, "<input name='own' dtype='f32' shape='b'/><map expr='own'/><loss/></model>");

    const FrontendOptions options = {.synthetic = 7};
    const DataSpec *data = &load(arena, strbuf_text(&model), &options)->data;
    assert_int_equal(data->n_fields, sizeof rows / sizeof *rows + 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    {
        const DataField *field = &data->fields[i];
        if (field->format != DATA_SYNTHETIC || fabs(field->low - rows[i].low) > 1e-12 ||
            fabs(field->high - rows[i].high) > 1e-12 || field->train_path || field->test_path)
            fail_msg("%s, %s: %g..%g", rows[i].field, rows[i].input, field->low, field->high);
    }
    assert_true(data->fields[data->n_fields - 1].low == -1);
    assert_int_equal(data->train_limit, 7);
    assert_int_equal(data->test_limit, 0);
    assert_int_equal(data->n_buckets, 0);
    assert_int_equal(data->group_by_length, 0);
    arena_destroy(arena);
}

/* The folder of the weights may be missing only where the caller says so; where it is, it is read. */
static void weights_may_be_missing(void **state)
{
    (void)state;
    static const char *const models[] = {
        "<model name='t'><data train_limit='4'><field name='x' format='synthetic'/></data>"
        "<train epochs='1' batch='2' optimizer='sgd' lr='1' weights='nowhere'/>"
        "<input name='x' dtype='f32' shape='b'/><map expr='x'/><loss/></model>",
        "<model name='t'><data train_limit='4'><field name='x' format='synthetic'/></data>"
        "<train epochs='1' batch='2' optimizer='sgd' lr='1' weights='/tmp'/>"
        "<input name='x' dtype='f32' shape='b'/><map expr='x'/><loss/></model>"};
    Arena *arena = arena_create();
    Job *job = NULL;
    FrontendOptions options = {0};
    assert_int_equal(
        frontend_load_text(arena, diag_create(arena), "test.xml", models[0], strlen(models[0]), &options, &job),
        STATUS_BAD_INPUT);
    options.may_lack_weights = true;
    assert_null(load(arena, models[0], &options)->train.weights);
    assert_string_equal(load(arena, models[1], &options)->train.weights, "/tmp");
    options = (FrontendOptions){.synthetic = 4};
    assert_null(load(arena, models[0], &options)->train.weights);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_those_of_formats),
        cmocka_unit_test(weights_may_be_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
