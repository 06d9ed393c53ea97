/* The CUDA text that NVRTC gets, run on the CPU by cuda_shim.h in three thread orders, against the interpreter; and
 * kernels with planted faults (a barrier taken out), which must be found. */
#include "harness/test.h"

#include "kernel_case.h"

#include "codegen/codegen.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum
{
    GUARD_BYTES = 8192,  /* more than a planted fault reaches */
    MAX_THREADS = 60000, /* of a launch: a fiber each */
    MAX_CASES_PER_FILE = 3
};

static const uint64_t seed = 424242;
static char dir[] = "/tmp/ptc-shim-test-XXXXXX";

typedef void Entry(void **pointers, char *workspace, uint32_t stream);
typedef const char *Run(Entry *entry, unsigned grid, unsigned block, unsigned smem_bytes, void **pointers,
                        char *workspace, uint32_t stream, int order);

static const char *cxx(void)
{
    const char *own = getenv("CXX");
    if (own && *own)
        return own;
    return system("command -v g++ >/dev/null 2>&1") == 0       ? "g++"
           : system("command -v clang++ >/dev/null 2>&1") == 0 ? "clang++"
                                                               : NULL;
}

/* "extern "C" void call_k0_0(void **p, char *w, uint32_t s) { k0_0((const float *)p[0], ..., w, s); }" */
static void print_entries(StrBuf *text, const CodegenCudaTable *table)
{
    for (uint32_t k = 0; k < table->n_kernels; k++)
        for (uint32_t l = 0; l < table->kernels[k].n_launches; l++)
        {
            const char *symbol = table->kernels[k].launch[l].symbol;
            strbuf_addf(
                text,
                "struct Any%s { void *p; template <typename T> operator T *() const { return (T *)p; } };\n"
                "extern \"C\" __attribute__((visibility(\"default\"))) void call_%s(void **p, char *w, uint32_t s)\n{\n"
                "    %s(",
                symbol, symbol, symbol);
            for (uint32_t i = 0; i < table->kernels[k].n_args + table->kernels[k].n_outputs; i++)
                strbuf_addf(text, "Any%s{p[%u]}, ", symbol, i);
            strbuf_add(text, "w, s);\n}\n");
        }
}

/* NULL when the compiler refuses. */
static void *compile(Arena *arena, const char *text)
{
    static uint32_t number;
    const char *stem = arena_printf(arena, "%s/%u", dir, number++);
    const char *source = arena_printf(arena, "%s.cc", stem), *object = arena_printf(arena, "%s.so", stem);
    FILE *file = fopen(source, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    const char *sanitize = "";
#ifdef __SANITIZE_ADDRESS__
    sanitize = "-fsanitize=address";
#endif
    const char *command =
        arena_printf(arena,
                     "%s -std=c++17 -O1 -w -fPIC -shared -fvisibility=hidden -ffp-contract=off %s "
                     "-fsanitize=alignment -fsanitize-undefined-trap-on-error -include "
                     "'%s/tests/codegen/cuda_shim.h' -o %s %s",
                     cxx(), sanitize, getenv("PTC_SOURCE_DIR") ? getenv("PTC_SOURCE_DIR") : ".", object, source);
    if (system(command) != 0)
        return NULL;
    return dlopen(object, RTLD_NOW | RTLD_LOCAL);
}

/* With what others may have left there: NaNs, and in turn with them small numbers that could be ids of rows. */
static void *filled(Arena *arena, int64_t size_bytes)
{
    char *at = arena_alloc(arena, (size_t)size_bytes + 64 + GUARD_BYTES);
    at += 64 - (uintptr_t)at % 64;
    memset(at, 0xFF, (size_t)size_bytes);
    for (int64_t i = 0; i < size_bytes / 8; i++)
        ((int32_t *)(void *)at)[2 * i] = (int32_t)(i % 7);
    memset(at + size_bytes, 0xA5, GUARD_BYTES);
    return at;
}

static bool guard_ok(const void *at, int64_t size_bytes)
{
    for (int64_t i = 0; i < GUARD_BYTES; i++)
        if (((const unsigned char *)at)[size_bytes + i] != 0xA5)
            return false;
    return true;
}

static const char *run_kernel(Arena *arena, void *handle, const CodegenCudaKernel *kernel, KernelData *data, int order)
{
    void *buffers[32], *workspace = filled(arena, kernel->workspace_bytes);
    uint32_t n = data->n_args + data->n_outputs;
    Run *run;
    *(void **)&run = dlsym(handle, "shim_run");
    for (uint32_t i = 0; i < n; i++)
    {
        int64_t size_bytes = ir_type_size_bytes(&data->types[i]);
        buffers[i] = filled(arena, size_bytes);
        if (i < data->n_args)
            memcpy(buffers[i], data->bytes[i], (size_t)size_bytes);
        data->bytes[i] = buffers[i];
    }
    for (uint32_t l = 0; l < kernel->n_launches; l++)
    {
        const CodegenCudaLaunch *launch = &kernel->launch[l];
        Entry *entry;
        *(void **)&entry = dlsym(handle, arena_printf(arena, "call_%s", launch->symbol));
        assert_non_null(entry);
        const char *why = run(entry, launch->grid, launch->block, launch->smem_bytes, buffers, workspace, 0, order);
        if (why)
            return why;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!guard_ok(buffers[i], ir_type_size_bytes(&data->types[i])))
            return arena_printf(arena, "wrote past the end of buffer %u", i);
    return guard_ok(workspace, kernel->workspace_bytes) ? NULL : "wrote past the end of the workspace";
}

/* Runs all kernels of the case in all orders; faults are printed unless quiet. Returns their number. */
static uint32_t run_case(Arena *arena, const KernelCase *c, const char *text, const CodegenCudaTable *table, bool quiet)
{
    uint32_t n_failed = 0, k = 0;
    void *handle = compile(arena, text);
    if (!handle)
        fail_msg("%s: the C++ compiler refused the text", c->label);
    IR_FOR_FUNCS(c->m, func)
    {
        const CodegenCudaKernel *kernel = &table->kernels[k++];
        KernelData data = kernel_data_make(arena, c->m, func, seed);
        for (int order = 0; order < 3; order++)
        {
            const char *why = run_kernel(arena, handle, kernel, &data, order);
            if (!why)
                why = kernel_data_compare(arena, &data, c->tolerance);
            if (!why)
                continue;
            if (!quiet)
                printf("%s @%s, order %d: %s\n", c->label, kernel->name, order, why);
            n_failed++;
        }
    }
    dlclose(handle);
    return n_failed;
}

static bool small_enough(const CodegenCudaTable *table)
{
    for (uint32_t k = 0; k < table->n_kernels; k++)
        for (uint32_t l = 0; l < table->kernels[k].n_launches; l++)
            if ((int64_t)table->kernels[k].launch[l].grid * table->kernels[k].launch[l].block > MAX_THREADS)
                return false;
    return true;
}

static size_t file_part(const char *label)
{
    return strcspn(label, " ");
}

static void kernels_agree_in_every_thread_order(void **state)
{
    (void)state;
    if (!cxx())
        TEST_SKIP("no C++ compiler: generated CUDA kernels are not run on the CPU");
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    const uint32_t max_of_file = test_is_thin() ? 2 : MAX_CASES_PER_FILE;
    uint32_t n_failed = 0, n_of_file = 0, n_run = 0;
    for (uint32_t i = 0; i < cases.len; i++)
    {
        const KernelCase *c = &cases.data[i];
        if (i == 0 || strncmp(c->label, cases.data[i - 1].label, file_part(c->label) + 1) != 0)
            n_of_file = 0;
        StrBuf text = strbuf_make(arena);
        CodegenCudaTable table;
        codegen_emit_cuda(&text, c->m, &table);
        if (!small_enough(&table) || n_of_file++ == max_of_file)
            continue;
        print_entries(&text, &table);
        n_failed += run_case(arena, c, strbuf_text(&text), &table, false);
        n_run++;
    }
    printf("seed %llu, %u of %u cases run, three orders each\n", (unsigned long long)seed, n_run, cases.len);
    arena_destroy(arena);
    assert_true(n_run >= 10);
    assert_int_equal(n_failed, 0);
}

typedef struct
{
    const char *label; /* of the case that must fail */
    bool in_kernels;   /* or in the helpers before them */
    const char *text;  /* what is spoilt: each place, one at a time */
    const char *spoilt;
    uint32_t n_places;
} Fault;

static const Fault faults[] = {
    {"reductions B=4 T=50 D=64", false, "__syncthreads();", "                ", 2},
    {"layer_norm_grad R=60 N=768", true, "__syncthreads();", "                ", 2},
    {"layer_norm_grad R=60 N=768", true, "(o - lo) & 1", "(o - lo) & 0", 1},
};

/* Spoils the n-th place between begin and end; false when there are not so many. */
static bool spoil(char *begin, const char *end, const Fault *fault, uint32_t n)
{
    for (char *at = begin; (at = strstr(at, fault->text)) && at < end; at += strlen(fault->text))
        if (n-- == 0)
        {
            memcpy(at, fault->spoilt, strlen(fault->text));
            return true;
        }
    return false;
}

static uint32_t places_of(Arena *arena, const KernelCase *c, const Fault *fault)
{
    for (uint32_t n = 0;; n++)
    {
        StrBuf text = strbuf_make(arena);
        CodegenCudaTable table;
        codegen_emit_cuda(&text, c->m, &table);
        print_entries(&text, &table);
        /* Of the helpers, those for sums; nobody needs the others here. */
        char *helpers_end = strstr(text.data, "#define PTC_ADD"), *kernels = strstr(text.data, "extern \"C\"");
        assert_true(helpers_end && kernels);
        if (!spoil(fault->in_kernels ? kernels : text.data, fault->in_kernels ? text.data + text.len : helpers_end,
                   fault, n))
            return n;
        if (run_case(arena, c, text.data, &table, true) == 0)
            fail_msg("%s: '%s' number %u can go without anyone seeing", fault->label, fault->text, n);
    }
}

static void planted_faults_are_found(void **state)
{
    (void)state;
    TEST_IF_FULL();
    if (!cxx())
        TEST_SKIP("no C++ compiler: planted faults are not looked for");
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++)
    {
        const KernelCase *c = NULL;
        for (uint32_t i = 0; i < cases.len && !c; i++)
            if (strcmp(cases.data[i].label, faults[f].label) == 0)
                c = &cases.data[i];
        assert_non_null(c);
        assert_int_equal(places_of(arena, c, &faults[f]), faults[f].n_places);
    }
    arena_destroy(arena);
}

/* Faults of attention on tensor cores, all in one text: "%u" is the number that makes the place wrong. */
static const struct
{
    const char *text, *spoilt;
    uint32_t n_places;
} mma_faults[] = {
    {"__syncthreads();", "if (shim_planted != %u) __syncthreads();", 6},
    {"ptc_copies_wait();\n     ", "if (shim_planted != %u) ptc_copies_wait();\n     ", 5},
    {"__syncwarp();\n", "if (shim_planted != %u) __syncwarp();\n", 1},
    {"y[2], y[3]", "y[shim_planted == %u ? 1 : 2], y[3]", 2},
    {"lane / 16 * 8;", "lane / (shim_planted == %u ? 8 : 16) * 8;", 1},
    {"lane / 8 % 2 * 8;", "lane / (shim_planted == %u ? 16 : 8) % 2 * 8;", 1},
    {"bits, 1)", "bits, shim_planted == %u ? 2 : 1)", 1},
    {"bits, 8)", "bits, shim_planted == %u ? 4 : 8)", 1},
    {"if (r0 + r < end)", "if (shim_planted == %u || r0 + r < end)", 1},
    {"if (t >= a.t)", "if (shim_planted != %u && t >= a.t)", 1},
    {"if (!hidden)", "if (shim_planted == %u || !hidden)", 1},
};

/* The text of the case with all the faults, numbered from 1; returns how many there are. */
static uint32_t plant_faults(StrBuf *out, const KernelCase *c, CodegenCudaTable *table)
{
    StrBuf text = strbuf_make(out->arena);
    uint32_t n = 0, n_places[sizeof mma_faults / sizeof *mma_faults] = {0};
    codegen_emit_cuda(&text, c->m, table);
    print_entries(&text, table);
    const char *from = strstr(text.data, "// ---- tensor cores");
    assert_non_null(from);
    strbuf_add_bytes(out, text.data, (size_t)(from - text.data));
    while (*from)
    {
        size_t f = 0;
        while (f < sizeof mma_faults / sizeof *mma_faults &&
               strncmp(from, mma_faults[f].text, strlen(mma_faults[f].text)) != 0)
            f++;
        if (f == sizeof mma_faults / sizeof *mma_faults)
        {
            strbuf_add_bytes(out, from++, 1);
            continue;
        }
        const char *number = strstr(mma_faults[f].spoilt, "%u");
        strbuf_add_bytes(out, mma_faults[f].spoilt, (size_t)(number - mma_faults[f].spoilt));
        strbuf_addf(out, "%u%s", ++n, number + 2);
        from += strlen(mma_faults[f].text);
        n_places[f]++;
    }
    for (size_t f = 0; f < sizeof mma_faults / sizeof *mma_faults; f++)
        if (n_places[f] != mma_faults[f].n_places) /* an array of the callers has room for as many */
            fail_msg("'%s' is there %u times", mma_faults[f].text, n_places[f]);
    return n;
}

/* Marks the faults that the case shows; fault 0 is none. */
static void find_faults(Arena *arena, const KernelCase *c, bool *found)
{
    StrBuf text = strbuf_make(arena);
    CodegenCudaTable table;
    const uint32_t n_faults = plant_faults(&text, c, &table);
    void *handle = compile(arena, text.data);
    assert_non_null(handle);
    unsigned *planted = dlsym(handle, "shim_planted");
    uint32_t k = 0;
    IR_FOR_FUNCS(c->m, func)
    {
        const KernelData data = kernel_data_make(arena, c->m, func, seed);
        for (*planted = 0; *planted <= n_faults; ++*planted)
            for (int order = 0; order < 3 && !found[*planted]; order++)
            {
                Arena *scratch = arena_create();
                KernelData tried = data;
                found[*planted] = run_kernel(scratch, handle, &table.kernels[k], &tried, order) ||
                                  kernel_data_compare(scratch, &tried, c->tolerance);
                arena_destroy(scratch);
            }
        k++;
    }
    dlclose(handle);
}

static void faults_of_tensor_kernels_are_found(void **state)
{
    enum
    {
        N_FAULTS = 21
    };
    (void)state;
    TEST_IF_FULL();
    if (!cxx())
        TEST_SKIP("no C++ compiler: planted faults are not looked for");
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    bool found[N_FAULTS + 1] = {false};
    uint32_t n_found = 0;
    for (uint32_t i = 0; i < cases.len; i++)
        if (strncmp(cases.data[i].label, "attention_bf16 ", 15) == 0)
            find_faults(arena, &cases.data[i], found);
    for (uint32_t n = 1; n <= N_FAULTS; n++)
    {
        n_found += found[n];
        if (!found[n])
            printf("fault %u can go without anyone seeing\n", n);
    }
    arena_destroy(arena);
    assert_false(found[0]);
    assert_int_equal(n_found, N_FAULTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_agree_in_every_thread_order),
                                       cmocka_unit_test(faults_of_tensor_kernels_are_found),
                                       cmocka_unit_test(planted_faults_are_found)};
    if (!mkdtemp(dir))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) != 0 || failed;
}
