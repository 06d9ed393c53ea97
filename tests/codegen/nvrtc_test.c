/* Every kernel case, and the programs of the examples, as CUDA, compiled by NVRTC for sm_80, sm_90 and sm_120 (no GPU
 * needed); prints registers and spills per kernel from ptxas, and fails on a spill. Without the toolkit: a skip. */
#include "harness/test.h"

#include "kernel_case.h"

#include "codegen/codegen.h"

#include <stdlib.h>
#include <string.h>

#ifdef PTC_HAVE_NVRTC
#include <nvrtc.h>

enum
{
    MAX_CASES_PER_FILE = 4, /* more sizes are the same text with other constants */
    SAVED_BYTES = 8 /* not counted: what sm_120 saves around the slow path of a division or square root, a call */
};

static const char *const archs[] = {"sm_80", "sm_90", "sm_120"};

/* "ptxas info : Compiling entry function 'k0_0' for 'sm_80'", "N bytes spill stores", "Used N registers". */
static uint32_t report(const char *label, const char *log, const CodegenCudaTable *table /* NULL: no names */)
{
    uint32_t n_spilling = 0;
    char symbol[64] = "";
    long spills = 0;
    for (const char *line = log; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
    {
        int n = (int)strcspn(line, "\n");
        const char *at = strstr(line, "entry function '");
        if (at && at < line + n)
            sscanf(at, "entry function '%63[^']'", symbol);
        at = strstr(line, "bytes stack frame, ");
        if (at && at < line + n)
            spills = atol(at + strlen("bytes stack frame, "));
        at = strstr(line, "Used ");
        if (!at || at >= line + n)
            continue;
        unsigned number = 0;
        sscanf(symbol, "k%u_", &number);
        printf("  %-40s %-20s %-6s %3ld registers, %ld bytes spilled\n", label,
               table && number < table->n_kernels ? table->kernels[number].name : "", symbol, atol(at + 5), spills);
        n_spilling += spills > SAVED_BYTES;
    }
    return n_spilling;
}

/* Faults: refused, or kernels that spill. */
static uint32_t compile(Arena *arena, const char *name, const char *text, const CodegenCudaTable *table,
                        const char *arch)
{
    nvrtcProgram program;
    const char *options[] = {arena_printf(arena, "--gpu-architecture=%s", arch), "--fmad=false", "--ptxas-options=-v"};
    assert_int_equal(nvrtcCreateProgram(&program, text, "kernels.cu", 0, NULL, NULL), NVRTC_SUCCESS);
    nvrtcResult result = nvrtcCompileProgram(program, 3, options);
    size_t size = 0;
    nvrtcGetProgramLogSize(program, &size);
    char *log = arena_alloc(arena, size + 1);
    nvrtcGetProgramLog(program, log);
    nvrtcDestroyProgram(&program);
    const char *label = arena_printf(arena, "%s %s", name, arch);
    if (result == NVRTC_SUCCESS)
        return report(label, log, table);
    printf("%s: %s\n%s\n", label, nvrtcGetErrorString(result), log);
    return 1;
}

static void kernels_compile(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    uint32_t n_compiled = 0, n_failed = 0;
    for (uint32_t i = 0, n_of_file = 0; i < cases.len; i++)
    {
        if (i == 0 || strncmp(cases.data[i].label, cases.data[i - 1].label, strcspn(cases.data[i].label, " ") + 1) != 0)
            n_of_file = 0;
        if (n_of_file++ >= MAX_CASES_PER_FILE)
            continue;
        StrBuf text = strbuf_make(arena);
        CodegenCudaTable table;
        codegen_emit_cuda(&text, cases.data[i].m, &table);
        for (uint32_t k = 0; k < table.n_kernels; k++)
            for (uint32_t l = 0; l < table.kernels[k].n_launches; l++)
            {
                const CodegenCudaLaunch *launch = &table.kernels[k].launch[l];
                assert_true(launch->grid > 0 && launch->block > 0 && launch->block % 32 == 0 && launch->block <= 1024);
                assert_true(launch->smem_bytes <= 99 * 1024);
            }
        for (size_t a = 0; a < sizeof archs / sizeof *archs; a++)
        {
            n_failed += compile(arena, cases.data[i].label, strbuf_text(&text), &table, archs[a]);
            n_compiled++;
        }
    }
    printf("%u programs compiled\n", n_compiled);
    arena_destroy(arena);
    assert_int_equal(n_failed, 0);
}

/* The whole programs of the examples, as the command writes them. */
static void examples_compile(void **state)
{
    (void)state;
    static const char *const names[] = {"mlp-fashion-mnist", "vit-fashion-mnist", "vit-postnorm", "vit-alibi",
                                        "vit-rmsnorm-swiglu-rotary"};
    const char *source = getenv("PTC_SOURCE_DIR"), *binary = getenv("PTC_BINARY_DIR");
    if (!source || !binary)
        TEST_SKIP("PTC_SOURCE_DIR and PTC_BINARY_DIR are not set");
    Arena *arena = arena_create();
    uint32_t n_failed = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    {
        const char *command =
            arena_printf(arena, "'%s/bin/ptc' --emit=cuda '%s/examples/%s.xml'", binary, source, names[i]);
        FILE *pipe = popen(command, "r");
        StrBuf text = strbuf_make(arena);
        char block[4096];
        assert_non_null(pipe);
        for (size_t n; (n = fread(block, 1, sizeof block, pipe)) > 0;)
            strbuf_add_bytes(&text, block, n);
        if (pclose(pipe) != 0)
            fail_msg("failed: %s", command);
        for (size_t a = 0; a < sizeof archs / sizeof *archs; a++)
            n_failed += compile(arena, names[i], strbuf_text(&text), NULL, archs[a]);
    }
    arena_destroy(arena);
    assert_int_equal(n_failed, 0);
}
#else
static void kernels_compile(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: generated CUDA kernels are not compiled");
}

static void examples_compile(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: the examples' CUDA programs are not compiled");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_compile), cmocka_unit_test(examples_compile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
