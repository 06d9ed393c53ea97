/* The kernel cache: hit, corrupt entry, refused text, no compiler, unwritable directory. */
#include "harness/test.h"

#include "base/strbuf.h"
#include "codegen/compile.h"

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
    assert_int_equal(codegen_compile(arena, text, &alone), STATUS_OK);
    assert_int_equal(codegen_compile_all(arena, texts, N, 2, objects), STATUS_OK);
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
    assert_int_equal(codegen_compile_all(arena, texts, 4, 3, objects), STATUS_COMPILER);
    assert_non_null(strstr(status_detail(), ".log"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* none is left running */
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
