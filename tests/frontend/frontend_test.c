/* The frontend on whole models: the examples load, units and names are right, includes are once and confined, places
 * survive odd line ends, and the documentation is the element table. */
#include "frontend/elements.h"
#include "frontend/frontend.h"
#include "harness/test.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *source_path(Arena *arena, const char *path)
{
    const char *root = getenv("PTC_SOURCE_DIR");
    assert_non_null(root);
    return arena_printf(arena, "%s/%s", root, path);
}

static const char *read_text(Arena *arena, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    StrBuf buf = strbuf_make(arena);
    char bytes[4096];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, file)) > 0;)
        strbuf_add_bytes(&buf, bytes, n);
    fclose(file);
    return strbuf_text(&buf);
}

static const char *messages(Arena *arena, const Diag *diag)
{
    char *text = NULL;
    size_t n = 0;
    FILE *memory = open_memstream(&text, &n);
    assert_non_null(memory);
    diag_print(diag, memory, false);
    fclose(memory);
    const char *copy = arena_strdup(arena, text);
    free(text);
    return copy;
}

static Job *load(Arena *arena, const char *path, const char *const *sets, uint32_t n_sets)
{
    Diag *diag = diag_create(arena);
    const FrontendOptions options = {.overrides = sets, .n_overrides = n_sets};
    Job *job = NULL;
    if (frontend_load(arena, diag, path, &options, &job) != STATUS_OK)
        fail_msg("%s", messages(arena, diag));
    assert_string_equal(messages(arena, diag), "");
    const char *why;
    if (!ir_verify(arena, job->module, &why))
        fail_msg("%s: %s", path, why);
    return job;
}

static Job *load_text(Arena *arena, const char *text, const char **out_messages)
{
    Diag *diag = diag_create(arena);
    const FrontendOptions options = {0};
    Job *job = NULL;
    (void)frontend_load_text(arena, diag, "test.xml", text, strlen(text), &options, &job);
    *out_messages = messages(arena, diag);
    return job;
}

static const char *print(Arena *arena, const IrModule *m)
{
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

/* ---- examples */

static void check_examples(const char *pattern, size_t at_least)
{
    Arena *arena = arena_create();
    glob_t found;
    assert_int_equal(glob(source_path(arena, pattern), 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= at_least);
    for (size_t i = 0; i < found.gl_pathc; i++)
    {
        const Job *job = load(arena, found.gl_pathv[i], NULL, 0);
        /* the same text twice: nothing depends on addresses or on what was loaded before */
        const Job *again = load(arena, found.gl_pathv[i], NULL, 0);
        assert_string_equal(print(arena, job->module), print(arena, again->module));
        assert_true(job->data.n_fields > 0);
    }
    globfree(&found);
    arena_destroy(arena);
}

static void all_examples_load(void **state)
{
    (void)state;
    check_examples("examples/*.xml", 6);
    check_examples("examples/bench/*.xml", 2);
    check_examples("examples/zoo/*.xml", 12);
    check_examples("tests/fixtures/*.xml", 4);
}

static uint32_t param_unit(const IrModule *m, const char *name)
{
    IrGlobal global = ir_global_find(m, name);
    if (!global)
        fail_msg("no param '%s'", name);
    return (uint32_t)ir_attrs_int(&ir_global(m, global)->attrs, IR_ATTR_unit, 0);
}

static void units_are_numbered_in_order(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const Job *job = load(arena, source_path(arena, "tests/fixtures/vit-tiny.xml"), NULL, 0);
    const IrModule *m = job->module;
    /* embedding; attention and MLP of two layers; final norm; head */
    assert_int_equal(job->n_units, 7);
    static const struct
    {
        const char *param;
        uint32_t unit;
    } rows[] = {{"patch.w", 1},
                {"cls", 1},
                {"pos", 1},
                {"layers.0.ln1.g", 2},
                {"layers.0.attn.wo", 2},
                {"layers.0.ln2.b", 3},
                {"layers.0.mlp.w2", 3},
                {"layers.1.attn.wq", 4},
                {"layers.1.mlp.b1", 5},
                {"norm.g", 6},
                {"head.w", 7}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(param_unit(m, rows[i].param), rows[i].unit);
    uint32_t last = 1;
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        assert_true(ir_op(m, op)->unit >= last); /* no unit is entered again */
        last = ir_op(m, op)->unit;
        assert_true(ir_op(m, op)->span.file > 0 && ir_op(m, op)->span.line > 0);
    }
    assert_int_equal(last, 7);
    /* an input is read in the unit that uses it: a cut carries no input along */
    uint32_t mask_units = 0, image_units = 0;
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const char *global = ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_global);
        mask_units += global && strcmp(global, "batch.mask") == 0 && ir_op(m, op)->unit == 7;
        image_units += global && strcmp(global, "batch.images") == 0 && ir_op(m, op)->unit == 1;
    }
    assert_int_equal(mask_units, 1);
    assert_int_equal(image_units, 1);
    arena_destroy(arena);
}

static void overrides_change_the_job(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    static const char *const sets[] = {"layers=1",
                                       "d=48",
                                       "train.batch=8",
                                       "train.schedule=linear",
                                       "data.train_limit=100",
                                       "data.images.train=/tmp/x.idx",
                                       "train.momentum=0.5",
                                       "train.optimizer=sgd"};
    const Job *job =
        load(arena, source_path(arena, "examples/vit-fashion-mnist.xml"), sets, sizeof sets / sizeof *sets);
    assert_int_equal(job->n_units, 5);
    assert_int_equal(job->train.batch, 8);
    assert_int_equal(job->train.schedule, SCHEDULE_LINEAR);
    assert_int_equal(job->data.train_limit, 100);
    assert_string_equal(job->data.fields[0].train_path, "/tmp/x.idx");
    const IrModule *m = job->module;
    const IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
    assert_string_equal(ir_attrs_str(attrs, IR_ATTR_optimizer), "sgd");
    assert_true(ir_attrs_float(attrs, IR_ATTR_momentum, 0) == 0.5);
    assert_null(ir_attrs_find(attrs, IR_ATTR_beta1));
    const IrType *type = &ir_global(m, ir_global_find(m, "patch.w"))->type;
    assert_string_equal(ir_type_text(arena, type), "f32[16x48]");
    assert_string_equal(ir_type_text(arena, &ir_global(m, ir_global_find(m, "batch.mask"))->type), "f32[8]");
    arena_destroy(arena);
}

/* ---- text */

#define JOB_START                                                                                                      \
    "<data train_limit='4'><field name='x' format='synthetic'/></data>"                                                \
    "<train epochs='1' batch='2' optimizer='sgd' lr='1'/><input name='x' dtype='f32' shape='b 3'/>"
#define JOB_END "<reduce op='sum' pattern='b n -> b'/><loss/></model>"

static void numbers_are_whole_or_real(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *said;
    const Job *job =
        load_text(arena,
                  "<model name='t'><dim name='p' value='0.25'/><dim name='n' value='3'/><dim name='yes' value='true'/>"
                  "<define name='half' in='x' params='by'><map expr='x * {by / 2}'/></define>" JOB_START
                  "<dropout in='x' p='{2 * p - 0.1}'/><use block='half' by='0.375'/>"
                  "<if test='yes &amp;&amp; p &lt; 0.3 &amp;&amp; min(p, n) == p &amp;&amp; n / 2.0 == 1.5'>"
                  "<map expr='_ * {n / 2.0 + p}'/></if>" JOB_END,
                  &said);
    assert_string_equal(said, "");
    StrBuf text = strbuf_make(arena);
    ir_print_module(&text, job->module);
    assert_non_null(strstr(strbuf_text(&text), "{p=0.4,"));
    assert_non_null(strstr(strbuf_text(&text), "{value=0.1875}"));
    assert_non_null(strstr(strbuf_text(&text), "{value=1.75}"));
    arena_destroy(arena);
}

static const char *value_for_export(const Job *job, const char *name)
{
    for (uint32_t i = 0; i < job->hf.n_values; i++)
        if (strcmp(job->hf.values[i].names[0], name) == 0)
            return job->hf.values[i].json;
    return NULL;
}

/* --set, then config.json, then the model. */
static void sizes_come_from_config(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    static const char *const sets[] = {"d=16", "dropout=0", "tokens=10"};
    const FrontendOptions options = {
        .overrides = sets, .n_overrides = 3, .weights = source_path(arena, "tests/fixtures/zoo/bert")};
    Diag *diag = diag_create(arena);
    Job *job = NULL;
    Status status = frontend_load(arena, diag, source_path(arena, "examples/zoo/bert.xml"), &options, &job);
    assert_string_equal(messages(arena, diag), "");
    assert_int_equal(status, STATUS_OK);
    assert_string_equal(value_for_export(job, "hidden_size"), "16");
    assert_string_equal(value_for_export(job, "hidden_dropout_prob"), "0.0");
    assert_string_equal(value_for_export(job, "num_hidden_layers"), "2");
    assert_string_equal(value_for_export(job, "layer_norm_eps"), "1e-12");
    assert_string_equal(value_for_export(job, "model_type"), "\"bert\"");
    assert_null(value_for_export(job, "is_decoder")); /* only looked at */
    assert_string_equal(job->hf.dims, "vocabulary=32 (30522), positions=12 (512), layers=2 (12), heads=2 (12), "
                                      "hidden=12 (3072), attention_dropout=0.0 (0.1)");
    assert_string_equal(job->hf.class_name, "BertForSequenceClassification");
    arena_destroy(arena);
}

static void tied_params_are_one(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *said;
    const Job *job = load_text(arena,
                               "<model name='t'>" JOB_START "<param name='w' shape='3' init='ones'/><map expr='x * w'/>"
                               "<param name='v' tie='w' shape='3'/><map expr='_ * v'/>" JOB_END,
                               &said);
    assert_string_equal(said, "");
    uint32_t n_params = 0;
    for (IrGlobal g = 1; g < job->module->globals.len; g++)
        n_params += ir_global(job->module, g)->kind == IR_GLOBAL_PARAM;
    assert_int_equal(n_params, 1);
    arena_destroy(arena);
}

static void shared_rounds_have_one_set_of_params(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *said;
    /* the inner repeat has params of its own for each of its rounds, once for all outer ones */
    const Job *job = load_text(arena,
                               "<model name='t'>" JOB_START "<map expr='x'/><repeat name='r' count='3' share='true'>"
                               "<param name='w' shape='3' init='ones'/><map expr='_ * w'/><repeat name='in' count='2'>"
                               "<param name='v' shape='3' init='ones'/><map expr='_ * v'/></repeat></repeat>" JOB_END,
                               &said);
    assert_string_equal(said, "");
    static const char *const names[] = {"r.0.w", "r.0.in.0.v", "r.0.in.1.v"};
    uint32_t n_params = 0, n_reads = 0;
    for (IrGlobal g = 1; g < job->module->globals.len; g++)
        if (ir_global(job->module, g)->kind == IR_GLOBAL_PARAM)
            assert_string_equal(ir_global(job->module, g)->name, names[n_params++]);
    assert_int_equal(n_params, 3);
    IR_FOR_OPS(job->module, ir_func_find(job->module, "train"), op)
    {
        const char *global = ir_attrs_str(&ir_op(job->module, op)->attrs, IR_ATTR_global);
        n_reads += ir_op(job->module, op)->code == IR_get && global && strncmp(global, "r.0.", 4) == 0;
    }
    assert_int_equal(n_reads, 9);
    load_text(arena,
              "<model name='t'>" JOB_START "<map expr='x'/><repeat count='2' share='true'>"
              "<param name='w' shape='{1 + 2 * (1 - i)}' init='ones'/><map expr='_ * w'/></repeat>" JOB_END,
              &said);
    assert_non_null(strstr(said, "param 'w' is [3], not [1]"));
    arena_destroy(arena);
}

static void random_streams_differ(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *said;
    const Job *job = load_text(arena,
                               "<model name='t'>" JOB_START "<map expr='x'/><repeat count='3'><dropout p='0.5'/>"
                               "</repeat>" JOB_END,
                               &said);
    assert_string_equal(said, "");
    int64_t want = 1;
    IR_FOR_OPS(job->module, ir_func_find(job->module, "train"), op)
    if (ir_op(job->module, op)->code == IR_dropout)
        assert_int_equal(ir_attrs_int(&ir_op(job->module, op)->attrs, IR_ATTR_stream, 0), want++);
    assert_int_equal(want, 4);
    arena_destroy(arena);
}

static void places_survive_line_ends_and_marks(void **state)
{
    (void)state;
    static const struct
    {
        const char *text, *place;
    } rows[] = {
        {"<model name='t'>\n" JOB_START "\n<map expr='nothing'/></model>", "test.xml:3:12:"},
        {"<model name='t'>\r\n" JOB_START "\r\n<map expr='nothing'/></model>", "test.xml:3:12:"},
        {"\xef\xbb\xbf<model name='t'>\n" JOB_START "\n\t<map expr='nothing'/></model>", "test.xml:3:13:"},
        {"<?xml version='1.0'?>\n<!-- <map expr='nothing'/> -->\n<model name='t'>" JOB_START
         "<!-- < > --><map\nexpr\n=\n'x + \n nothing'/></model>",
         "test.xml:7:2:"},
        {"<model name='t'>" JOB_START "<?pi <map expr='x'/> ?>\n<map expr='x &#62; nothing'/></model>",
         "test.xml:2:20:"},
        {"<model name='t'>" JOB_START "\n<map expr='\xc3\xa9'/></model>", "test.xml:2:12:"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    {
        Arena *arena = arena_create();
        const char *said;
        assert_null(load_text(arena, rows[i].text, &said));
        if (strncmp(said, rows[i].place, strlen(rows[i].place)) != 0)
            fail_msg("expected %s, said %s", rows[i].place, said);
        arena_destroy(arena);
    }
}

/* ---- includes */

typedef struct
{
    char dir[64];
} Folder;

static void write_file(const Folder *folder, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder->dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void includes_are_once_and_confined(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    Folder outside = {"/tmp/ptc-frontend-XXXXXX"}, folder = {"/tmp/ptc-frontend-XXXXXX"};
    assert_non_null(mkdtemp(outside.dir));
    assert_non_null(mkdtemp(folder.dir));
    write_file(&outside, "secret.xml", "<library/>");
    write_file(&folder, "a.xml",
               "<library xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='c.xml'/></library>");
    write_file(&folder, "b.xml",
               "<library xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='c.xml'/></library>");
    write_file(&folder, "c.xml", "<library><define name='same' in='v'><map expr='v'/></define></library>");
    write_file(&folder, "good.xml",
               "<model name='t' xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='a.xml'/>"
               "<xi:include href='./b.xml'/><xi:include href='basic.xml'/>" JOB_START
               "<use block='same' in='x'/><use block='relu'/>" JOB_END);
    write_file(&folder, "bad.xml",
               "<model name='t' xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='link.xml'/>" JOB_START
               "<map expr='x'/>" JOB_END);
    assert_int_equal(
        symlink(arena_printf(arena, "%s/secret.xml", outside.dir), arena_printf(arena, "%s/link.xml", folder.dir)), 0);
    load(arena, arena_printf(arena, "%s/good.xml", folder.dir), NULL, 0);

    Diag *diag = diag_create(arena);
    const FrontendOptions options = {0};
    Job *job = NULL;
    assert_int_equal(frontend_load(arena, diag, arena_printf(arena, "%s/bad.xml", folder.dir), &options, &job),
                     STATUS_BAD_INPUT);
    assert_non_null(strstr(messages(arena, diag), "'link.xml' is outside of the model's folder"));
    static const char *const names[] = {"a.xml", "b.xml", "c.xml", "good.xml", "bad.xml", "link.xml"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(arena_printf(arena, "%s/%s", folder.dir, names[i]));
    unlink(arena_printf(arena, "%s/secret.xml", outside.dir));
    rmdir(folder.dir);
    rmdir(outside.dir);
    arena_destroy(arena);
}

/* ---- documentation */

/* The reference part of docs/model-language.md, from the table. */
static const char *reference_text(Arena *arena)
{
    static const char *const kinds[] = {[KIND_NAME] = "name",
                                        [KIND_NAMES] = "names",
                                        [KIND_INT] = "whole number",
                                        [KIND_FLOAT] = "number",
                                        [KIND_BOOL] = "true or false",
                                        [KIND_SHAPE] = "axes",
                                        [KIND_SCALAR] = "number, true or false",
                                        [KIND_TEXT] = "text",
                                        [KIND_TEST] = "test",
                                        [KIND_PATH] = "path"};
    StrBuf buf = strbuf_make(arena);
    uint32_t n;
    const AttrInfo *attrs = element_attrs(&n);
    for (int id = 0; id < EL_COUNT; id++)
    {
        const ElementInfo *info = element_info((ElementId)id);
        if (id == EL_NONE)
            strbuf_add(&buf, "\n#### every element that makes a value (marked *)\n\n");
        else
            strbuf_addf(&buf, "\n#### `<%s>`%s\n\n%s\n\n", info->name, info->groups & GROUP_VALUE ? " *" : "",
                        info->doc);
        bool any = false;
        for (uint32_t i = 0; i < n; i++)
        {
            if (attrs[i].element != (ElementId)id)
                continue;
            const char *kind = attrs[i].kind == KIND_CHOICE ? attrs[i].choices : kinds[attrs[i].kind];
            strbuf_addf(&buf, "- `%s`: %s", attrs[i].name, kind);
            if (attrs[i].required)
                strbuf_add(&buf, ", required");
            if (attrs[i].absent)
                strbuf_addf(&buf, ", default `%s`", attrs[i].absent);
            strbuf_addf(&buf, ". %s\n", attrs[i].doc);
            any = true;
        }
        if (!any && !(info->groups & GROUP_VALUE))
            strbuf_add(&buf, "- no attributes\n");
    }
    return strbuf_text(&buf);
}

/* BLESS=1 writes it. */
static void documentation_is_the_table(void **state)
{
    (void)state;
    static const char mark[] =
        "<!-- generated from frontend/elements.def: BLESS=1 with the test frontend_models writes it -->\n";
    Arena *arena = arena_create();
    const char *path = source_path(arena, "docs/model-language.md");
    const char *text = read_text(arena, path);
    const char *at = strstr(text, mark);
    assert_non_null(at);
    at += strlen(mark);
    const char *want = reference_text(arena);
    if (getenv("BLESS"))
    {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fwrite(text, 1, (size_t)(at - text), file);
        fputs(want, file);
        fclose(file);
        at = want;
    }
    assert_string_equal(at, want);
    arena_destroy(arena);
}

/* Every XML in the guide is a model: what stands in ```xml fences loads. */
static void documentation_examples_load(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *text = read_text(arena, source_path(arena, "docs/model-language.md"));
    int n_examples = 0;
    for (const char *at = text; (at = strstr(at, "```xml\n")) != NULL;)
    {
        at += strlen("```xml\n");
        const char *end = strstr(at, "```");
        assert_non_null(end);
        const char *said;
        if (!load_text(arena, arena_strndup(arena, at, (size_t)(end - at)), &said))
            fail_msg("%s", said);
        n_examples++;
    }
    assert_true(n_examples >= 2);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_examples_load),
        cmocka_unit_test(units_are_numbered_in_order),
        cmocka_unit_test(overrides_change_the_job),
        cmocka_unit_test(numbers_are_whole_or_real),
        cmocka_unit_test(sizes_come_from_config),
        cmocka_unit_test(tied_params_are_one),
        cmocka_unit_test(shared_rounds_have_one_set_of_params),
        cmocka_unit_test(random_streams_differ),
        cmocka_unit_test(places_survive_line_ends_and_marks),
        cmocka_unit_test(includes_are_once_and_confined),
        cmocka_unit_test(documentation_is_the_table),
        cmocka_unit_test(documentation_examples_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
