/* Every kernel case, and the programs of the examples, as CUDA, compiled by NVRTC for sm_80, sm_90 and sm_120 (no GPU
 * needed). What ptxas says of registers, shared memory and spills goes to cuda-kernels.txt in the build folder; a spill
 * that is not in the table below fails. Without the toolkit: a skip. */
#include "harness/test.h"

#include "kernel_case.h"

#include "codegen/codegen.h"

#include <stdlib.h>
#include <string.h>

#ifdef PTC_HAVE_NVRTC
#include <nvrtc.h>

enum
{
    MAX_CASES_PER_FILE = 4 /* more sizes are the same text with other constants */
};

static const char *const archs[] = {"sm_80", "sm_90", "sm_120"};

/* Kernels that may spill: what their label ("file sizes @kernel") begins with, and the most bytes. */
static const struct
{
    const char *label, *arch;
    long bytes;
    const char *reason;
} spills[] = {
    {"attention_packed B=1 T=128 H=12 P=36 D=64 @plain", "sm_80", 16,
     "128 registers for two blocks at a time; before the loop"},
    {"attention_packed B=1 T=128 H=12 P=36 D=64 @plain", "sm_90", 16,
     "128 registers for two blocks at a time; before the loop"},
    {"attention_packed B=1 T=128 H=12 P=36 D=64 @dropout_grad", "sm_80", 8, "128 registers for two blocks at a time"},
};

static FILE *listing;

static bool may_spill(const char *label, const char *arch, long bytes)
{
    for (size_t i = 0; i < sizeof spills / sizeof *spills; i++)
        if (strncmp(label, spills[i].label, strlen(spills[i].label)) == 0 && strcmp(arch, spills[i].arch) == 0)
            return bytes <= spills[i].bytes;
    return bytes == 0;
}

/* The number before `unit` in a line of n characters; 0: it is not there. */
static long number_before(const char *line, int n, const char *unit)
{
    const char *at = strstr(line, unit);
    if (!at || at >= line + n)
        return 0;
    while (at > line && at[-1] >= '0' && at[-1] <= '9')
        at--;
    return atol(at);
}

/* Shared memory that a launch asks for besides. */
static uint32_t dynamic_bytes(const CodegenCudaTable *table, const char *symbol)
{
    for (uint32_t k = 0; table && k < table->n_kernels; k++)
        for (uint32_t l = 0; l < table->kernels[k].n_launches; l++)
            if (strcmp(table->kernels[k].launch[l].symbol, symbol) == 0)
                return table->kernels[k].launch[l].smem_bytes;
    return 0;
}

/* "ptxas info : Compiling entry function 'k0_0' for 'sm_80'", "N bytes spill stores", "Used N registers, ... N bytes
 * smem". Returns the spills that are not in the table. */
static uint32_t report(const char *label, const char *arch, const char *log,
                       const CodegenCudaTable *table /* NULL: no names */)
{
    uint32_t n_spilling = 0;
    char symbol[64] = "", full[256];
    long spilled = 0;
    for (const char *line = log; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
    {
        const int n = (int)strcspn(line, "\n");
        const char *at = strstr(line, "entry function '");
        if (at && at < line + n)
            sscanf(at, "entry function '%63[^']'", symbol);
        if (strstr(line, "bytes stack frame") && strstr(line, "bytes stack frame") < line + n)
            spilled = number_before(line, n, " bytes spill stores");
        at = strstr(line, "Used ");
        if (!at || at >= line + n)
            continue;
        unsigned number = 0;
        sscanf(symbol, "k%u_", &number);
        snprintf(full, sizeof full, "%s @%s", label,
                 table && number < table->n_kernels ? table->kernels[number].name : symbol);
        fprintf(listing, "%-70s %-6s %-6s %3ld registers, %6ld bytes of shared memory, %ld bytes spilled\n", full,
                symbol, arch, atol(at + strlen("Used ")),
                number_before(line, n, " bytes smem") + dynamic_bytes(table, symbol), spilled);
        if (may_spill(full, arch, spilled))
            continue;
        printf("%s (%s) spills %ld bytes on %s\n", full, symbol, spilled, arch);
        n_spilling++;
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
    if (result == NVRTC_SUCCESS)
        return report(name, arch, log, table);
    printf("%s %s: %s\n%s\n", name, arch, nvrtcGetErrorString(result), log);
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
static int open_listing(void **state)
{
    (void)state;
    const char *binary = getenv("PTC_BINARY_DIR");
    char path[1024];
    snprintf(path, sizeof path, "%s/cuda-kernels.txt", binary ? binary : ".");
    listing = fopen(path, "w");
    printf("registers, shared memory and spills: %s\n", path);
    return listing ? 0 : -1;
}

static int close_listing(void **state)
{
    (void)state;
    return fclose(listing);
}

/* The table says what is, and no more than a kernel spills is let through. */
static void other_spills_fail(void **state)
{
    (void)state;
    static const char log[] = "ptxas info    : Compiling entry function 'k0_0' for 'sm_80'\n"
                              "ptxas         .     %d bytes stack frame, %d bytes spill stores, 8 bytes spill loads\n"
                              "ptxas info    : Used 128 registers, used 1 barriers, 64 bytes smem\n";
    char text[512];
    FILE *kept = listing;
    listing = tmpfile();
    assert_non_null(listing);
    snprintf(text, sizeof text, log, 4, 4);
    assert_int_equal(report("a kernel that nobody listed", "sm_80", text, NULL), 1);
    snprintf(text, sizeof text, log, 8, 0);
    assert_int_equal(report("a kernel that nobody listed", "sm_80", text, NULL), 0);
    fclose(listing);
    listing = kept;
    for (size_t i = 0; i < sizeof spills / sizeof *spills; i++)
    {
        assert_true(may_spill(spills[i].label, spills[i].arch, spills[i].bytes));
        assert_false(may_spill(spills[i].label, spills[i].arch, spills[i].bytes + 1));
        assert_false(may_spill(spills[i].label, "sm_120", spills[i].bytes));
    }
}
#else
static int open_listing(void **state)
{
    (void)state;
    return 0;
}

static int close_listing(void **state)
{
    (void)state;
    return 0;
}

static void other_spills_fail(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: generated CUDA kernels are not compiled");
}

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
    const struct CMUnitTest tests[] = {cmocka_unit_test(other_spills_fail), cmocka_unit_test(kernels_compile),
                                       cmocka_unit_test(examples_compile)};
    return cmocka_run_group_tests(tests, open_listing, close_listing);
}
