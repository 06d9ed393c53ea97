/* Every kernel case as CUDA, compiled by NVRTC for sm_80, sm_90 and sm_120 (no GPU needed); prints registers, shared
 * memory and spills per kernel from ptxas, and fails on a spill. Without the toolkit: a skip. */
#include "harness/test.h"

#include "kernel_case.h"

#include "codegen/codegen.h"

#include <stdlib.h>
#include <string.h>

#ifdef PTC_HAVE_NVRTC
#include <nvrtc.h>

static const char *const archs[] = {"sm_80", "sm_90", "sm_120"};

/* "ptxas info : Compiling entry function 'k0_0' for 'sm_80'", "N bytes spill stores", "Used N registers". */
static uint32_t report(const char *label, const char *log, const CodegenCudaTable *table)
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
               number < table->n_kernels ? table->kernels[number].name : "?", symbol, atol(at + 5), spills);
        n_spilling += spills > 0;
    }
    return n_spilling;
}

static void kernels_compile(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    uint32_t n_compiled = 0, n_failed = 0;
    for (uint32_t i = 0; i < cases.len; i++)
    {
        StrBuf text = strbuf_make(arena);
        CodegenCudaTable table;
        codegen_emit_cuda(&text, cases.data[i].m, &table);
        for (uint32_t k = 0; k < table.n_kernels; k++)
            for (uint32_t l = 0; l < table.kernels[k].n_launches; l++)
            {
                const CodegenCudaLaunch *launch = &table.kernels[k].launch[l];
                assert_true(launch->grid > 0 && launch->block > 0 && launch->block % 32 == 0 && launch->block <= 1024);
                assert_true(launch->smem_bytes <= 48 * 1024);
            }
        /* One architecture for every case, all for the first case of a file. */
        bool first = i == 0 || strcspn(cases.data[i].label, " ") != strcspn(cases.data[i - 1].label, " ") ||
                     strncmp(cases.data[i].label, cases.data[i - 1].label, strcspn(cases.data[i].label, " ")) != 0;
        for (size_t a = 0; a < (first ? sizeof archs / sizeof *archs : 1); a++)
        {
            nvrtcProgram program;
            const char *arch = archs[(a + i) % 3];
            const char *options[] = {arena_printf(arena, "--gpu-architecture=%s", arch), "--fmad=false",
                                     "--ptxas-options=-v", "--ptxas-options=--warn-on-spills"};
            assert_int_equal(nvrtcCreateProgram(&program, strbuf_text(&text), "kernels.cu", 0, NULL, NULL),
                             NVRTC_SUCCESS);
            nvrtcResult result = nvrtcCompileProgram(program, 4, options);
            size_t size = 0;
            nvrtcGetProgramLogSize(program, &size);
            char *log = arena_alloc(arena, size + 1);
            nvrtcGetProgramLog(program, log);
            const char *label = arena_printf(arena, "%s %s", cases.data[i].label, arch);
            if (result != NVRTC_SUCCESS)
            {
                printf("%s: %s\n%s\n", label, nvrtcGetErrorString(result), log);
                n_failed++;
            }
            else
            {
                n_failed += report(label, log, &table);
                n_compiled++;
            }
            nvrtcDestroyProgram(&program);
        }
    }
    printf("%u programs compiled\n", n_compiled);
    arena_destroy(arena);
    assert_int_equal(n_failed, 0);
}
#else
static void kernels_compile(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: generated CUDA kernels are not compiled");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_compile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
