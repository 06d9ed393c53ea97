/* The kernel cache: hit, corrupt entry, refused text, no compiler, unwritable directory; kernels that programs share.
 */
#include "harness/test.h"

#include "base/strbuf.h"
#include "codegen/compile.h"
#include "codegen/kernel_set.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/ptc-cache-test-XXXXXX";
static const char text[] = "int ptc_answer(void) { return 42; }\n";

static void second_time_is_a_hit(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    CodegenObject first, second;
    assert_int_equal(codegen_compile(arena, text, &first), STATUS_OK);
    assert_false(first.cached);
    assert_int_equal(codegen_compile(arena, text, &second), STATUS_OK);
    assert_true(second.cached);
    assert_string_equal(first.so_path, second.so_path);
    assert_int_equal(codegen_compile(arena, "int ptc_answer(void) { return 43; }\n", &second), STATUS_OK);
    assert_string_not_equal(first.so_path, second.so_path);
    arena_destroy(arena);
}

static void a_corrupt_entry_is_compiled_again(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    CodegenObject object;
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_OK);
    FILE *file = fopen(object.so_path, "r+b");
    assert_non_null(file);
    fseek(file, 100, SEEK_SET);
    fputc(0xFF, file);
    fclose(file);
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_OK);
    assert_false(object.cached);
    assert_int_equal(truncate(object.so_path, 10), 0);
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_OK);
    assert_false(object.cached);
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_OK);
    assert_true(object.cached);
    arena_destroy(arena);
}

static void refused_text_names_the_log(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    CodegenObject object;
    assert_int_equal(codegen_compile(arena, "this is not C\n", &object), STATUS_COMPILER);
    const char *log = strstr(status_detail(), dir);
    assert_non_null(log);
    assert_non_null(strstr(status_detail(), ".log"));
    arena_destroy(arena);
}

/* More than run at the same time; two are the same; one is in the cache. */
static void many_at_once(void **state)
{
    (void)state;
    enum
    {
        N = 5
    };
    Arena *arena = arena_create();
    const char *texts[N] = {"int a;\n", "int b;\n", "int c;\n", "int b;\n", text};
    CodegenObject objects[N], alone;
    CodegenCompiler *compiler;
    assert_int_equal(codegen_compile(arena, text, &alone), STATUS_OK);
    assert_int_equal(codegen_compiler_find(arena, &compiler), STATUS_OK);
    assert_int_equal(codegen_compile_all(arena, compiler, texts, N, 2, objects), STATUS_OK);
    for (int i = 0; i < N; i++)
    {
        assert_int_equal(access(objects[i].so_path, R_OK), 0);
        assert_int_equal(codegen_compile(arena, texts[i], &alone), STATUS_OK);
        assert_true(alone.cached);
        assert_string_equal(alone.so_path, objects[i].so_path);
    }
    assert_true(objects[4].cached);
    arena_destroy(arena);
}

static void one_of_many_is_refused(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const char *const texts[] = {"int d;\n", "neither is this C\n", "int e;\n", "int f;\n"};
    CodegenObject objects[4];
    CodegenCompiler *compiler;
    assert_int_equal(codegen_compiler_find(arena, &compiler), STATUS_OK);
    assert_int_equal(codegen_compile_all(arena, compiler, texts, 4, 3, objects), STATUS_COMPILER);
    assert_non_null(strstr(status_detail(), ".log"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* none is left running */
    arena_destroy(arena);
}

/* ---- kernels of programs */

/* Kernels that add 1, 2, ... to n numbers, from `first` to `last`. */
static const IrModule *module_of(Arena *arena, int n, int first, int last)
{
    StrBuf buf = strbuf_make(arena);
    strbuf_add(&buf, "module \"test\"\n");
    for (int i = first; i <= last; i++)
        strbuf_addf(
            &buf,
            "\nfunc kernel @k%d {\n  %%0 = arg : f32[%d]\n  %%1 = const {value=%d.0} : f32[%d]\n  %%2 = add %%0, "
            "%%1 : f32[%d]\n  output %%2\n}\n",
            i - first, n, i, n, n);
    const char *source = strbuf_text(&buf);
    Diag *diag = diag_create(arena);
    const IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "test", source, buf.len), source, buf.len);
    assert_non_null(m);
    return m;
}

/* Files in the cache with that ending. */
static int count(const char *ending)
{
    char command[256];
    int n = -1;
    snprintf(command, sizeof command, "ls '%s' | grep -c '%s$'", dir, ending);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &n), 1);
    pclose(pipe);
    return n;
}

static CodegenKernelPlace *places_of(Arena *arena, const char *path, uint32_t want)
{
    CodegenKernelPlace *places;
    uint32_t n;
    assert_int_equal(codegen_kernels_read(arena, path, &places, &n), STATUS_OK);
    assert_int_equal(n, want);
    return places;
}

static void equal_kernels_are_compiled_once(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const IrModule *modules[] = {module_of(arena, 10, 1, 3), module_of(arena, 10, 2, 4), module_of(arena, 11, 2, 4)};
    CodegenKernels sets[3], again;
    const int n_objects = count("\\.so");
    assert_int_equal(codegen_kernels_build(arena, modules, 2, 2, sets), STATUS_OK);
    assert_false(sets[0].cached || sets[1].cached);
    assert_int_equal(count("\\.kernel"), 4);
    assert_int_equal(count("\\.so"), n_objects + 2);
    const CodegenKernelPlace *first = places_of(arena, sets[0].path, 3), *second = places_of(arena, sets[1].path, 3);
    assert_string_equal(first[1].name, "k1"); /* adds 2, as k0 of the second does */
    assert_string_equal(second[0].name, "k0");
    assert_string_equal(first[1].symbol, second[0].symbol);
    assert_string_equal(first[1].so_path, second[0].so_path);
    assert_int_equal(codegen_kernels_build(arena, modules, 3, 1, sets), STATUS_OK);
    assert_true(sets[0].cached && sets[1].cached);
    assert_false(sets[2].cached); /* of another length */
    assert_int_equal(count("\\.kernel"), 7);
    assert_int_equal(codegen_kernels_build(arena, modules, 1, 1, &again), STATUS_OK);
    assert_true(again.cached);
    assert_string_equal(again.path, sets[0].path);
    arena_destroy(arena);
}

static void damage(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at, SEEK_SET);
    fputc(0xFF, file);
    fclose(file);
}

static void damaged_kernels_are_compiled_again(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const IrModule *m = module_of(arena, 12, 1, 2);
    CodegenKernels set;
    assert_int_equal(codegen_kernels_build(arena, &m, 1, 1, &set), STATUS_OK);
    const CodegenKernelPlace *places = places_of(arena, set.path, 2);
    damage(places[0].so_path, 100);
    assert_int_equal(codegen_kernels_build(arena, &m, 1, 1, &set), STATUS_OK);
    assert_false(set.cached);
    damage(arena_printf(arena, "%s/%s.kernel", dir, places[1].symbol), 3);
    assert_int_equal(codegen_kernels_build(arena, &m, 1, 1, &set), STATUS_OK);
    assert_false(set.cached);
    damage(set.path, 3);
    assert_int_equal(codegen_kernels_read(arena, set.path, (CodegenKernelPlace **)&places, &(uint32_t){0}),
                     STATUS_DEVICE);
    assert_int_equal(codegen_kernels_build(arena, &m, 1, 1, &set), STATUS_OK);
    assert_true(set.cached);
    places_of(arena, set.path, 2);
    arena_destroy(arena);
}

/* What one process is making another one waits for. */
static void processes_share_the_work(void **state)
{
    (void)state;
    enum
    {
        N_PROCESSES = 3,
        N_KERNELS = 40
    };
    Arena *arena = arena_create();
    const IrModule *m = module_of(arena, 13, 1, N_KERNELS);
    const int n_kernels = count("\\.kernel"), n_objects = count("\\.so");
    pid_t children[N_PROCESSES];
    for (int i = 0; i < N_PROCESSES; i++)
    {
        children[i] = fork();
        CodegenKernels set;
        if (children[i] == 0)
            _exit(codegen_kernels_build(arena, &m, 1, 1, &set) != STATUS_OK);
    }
    for (int i = 0; i < N_PROCESSES; i++)
    {
        int code;
        assert_int_equal(waitpid(children[i], &code, 0), children[i]);
        assert_int_equal(code, 0);
    }
    assert_int_equal(count("\\.kernel"), n_kernels + N_KERNELS);
    assert_int_equal(count("\\.so"), n_objects + 3); /* 16 in an object */
    arena_destroy(arena);
}

static void no_compiler_is_said_so(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    CodegenObject object;
    setenv("PTC_CC", "/nowhere/cc", 1);
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_COMPILER);
    assert_non_null(strstr(status_detail(), "'/nowhere/cc'"));
    assert_non_null(strstr(status_detail(), "PTC_CC"));
    unsetenv("PTC_CC");
    arena_destroy(arena);
}

static void an_unwritable_directory_is_said_so(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    CodegenObject object;
    setenv("PTC_CACHE_DIR", "/proc/nothing", 1);
    assert_int_equal(codegen_compile(arena, text, &object), STATUS_IO);
    assert_non_null(strstr(status_detail(), "/proc/nothing"));
    setenv("PTC_CACHE_DIR", dir, 1);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_time_is_a_hit),
        cmocka_unit_test(a_corrupt_entry_is_compiled_again),
        cmocka_unit_test(refused_text_names_the_log),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(one_of_many_is_refused),
        cmocka_unit_test(equal_kernels_are_compiled_once),
        cmocka_unit_test(damaged_kernels_are_compiled_again),
        cmocka_unit_test(processes_share_the_work),
        cmocka_unit_test(no_compiler_is_said_so),
        cmocka_unit_test(an_unwritable_directory_is_said_so),
    };
    if (!mkdtemp(dir))
        return 1;
    setenv("PTC_CACHE_DIR", dir, 1);
    unsetenv("PTC_CC");
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) != 0 || failed;
}
