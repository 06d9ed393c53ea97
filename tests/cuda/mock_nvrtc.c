/* libnvrtc on the host: a "cubin" is a shared object of the same text, made by the C++ compiler over
 * tests/codegen/cuda_shim.h. Text with "#error" in it is refused like any other that does not compile. "PTX", made for
 * virtual architectures only, is the text itself. */
#include "mock.h"

#include <unistd.h>

enum
{
    REFUSED = 6, /* NVRTC_ERROR_COMPILATION */
    BROKEN = 11  /* NVRTC_ERROR_INTERNAL_ERROR */
};

struct _nvrtcProgram
{
    char *text;
    char *log;
    char *cubin;
    size_t cubin_bytes;
    int is_virtual;
};

EXPORT CuResult nvrtcVersion(int *major, int *minor)
{
    MOCK("nvrtcVersion", " ");
    *major = 13;
    *minor = 0;
    return 0;
}

EXPORT const char *nvrtcGetErrorString(CuResult result)
{
    return result == REFUSED ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_INTERNAL_ERROR";
}

EXPORT CuResult nvrtcGetNumSupportedArchs(int *n)
{
    *n = 4;
    return 0;
}

EXPORT CuResult nvrtcGetSupportedArchs(int *archs)
{
    archs[0] = 75;
    archs[1] = 80;
    archs[2] = 90;
    archs[3] = 120;
    return 0;
}

EXPORT CuResult nvrtcCreateProgram(NvrtcProgram *program, const char *text, const char *name, int n_headers,
                                   const char *const *headers, const char *const *include_names)
{
    MOCK("nvrtcCreateProgram", "%s %d", name, n_headers);
    (void)headers;
    (void)include_names;
    *program = calloc(1, sizeof **program);
    (*program)->text = strdup(text);
    return 0;
}

EXPORT CuResult nvrtcDestroyProgram(NvrtcProgram *program)
{
    free((*program)->text);
    free((*program)->log);
    free((*program)->cubin);
    free(*program);
    *program = NULL;
    return 0;
}

/* "extern "C" void call_k0_0(void **p, char *w, uint32_t s) { k0_0(p[0], ..., w, s); }" for every kernel of the text.
 */
static void print_entries(FILE *out, const char *text)
{
    fputs("\nstruct MockAny { void *p; template <typename T> operator T *() const { return (T *)p; } };\n"
          "#define MOCK_EXPORT extern \"C\" __attribute__((visibility(\"default\")))\n",
          out);
    static const char start[] = "extern \"C\" __global__ void ", bounds[] = "__launch_bounds__(";
    for (const char *at = text; (at = strstr(at, start)); at++)
    {
        const char *name = at + strlen(start);
        if (strncmp(name, bounds, strlen(bounds)) == 0)
            name = strchr(name, ')') + 2;
        const char *open = strchr(name, '(');
        unsigned n_commas = 0;
        for (const char *c = open; *c && *c != ')'; c++)
            n_commas += *c == ',';
        const int n = (int)(open - name);
        fprintf(out, "MOCK_EXPORT const uint32_t n_buffers_%.*s;\nconst uint32_t n_buffers_%.*s = %u;\n", n, name, n,
                name, n_commas - 1);
        fprintf(out, "MOCK_EXPORT void call_%.*s(void **p, char *w, uint32_t s)\n{\n    %.*s(", n, name, n, name);
        for (unsigned i = 0; i + 1 < n_commas; i++)
            fprintf(out, "MockAny{p[%u]}, ", i);
        fputs("w, s);\n}\n", out);
    }
}

static char *read_file(const char *path, size_t head_bytes, size_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    const size_t n = (size_t)ftell(file);
    rewind(file);
    char *data = calloc(1, head_bytes + n + 1);
    *out_bytes = head_bytes + fread(data + head_bytes, 1, n, file);
    fclose(file);
    return data;
}

/* Compiles what is in DIR/k.cc. */
static CuResult run_compiler(NvrtcProgram program, const char *dir)
{
    char command[2048], path[512];
    const char *cxx = getenv("CXX");
    snprintf(command, sizeof command,
             "%s -std=c++17 -O1 -w -fPIC -shared -fvisibility=hidden -ffp-contract=off -fsanitize=alignment "
             "-fsanitize-undefined-trap-on-error -include '%s' -o %s/k.so %s/k.cc >%s/k.log 2>&1",
             cxx && *cxx ? cxx : "c++", MOCK_SHIM, dir, dir, dir);
    const int code = system(command);
    size_t n;
    snprintf(path, sizeof path, "%s/k.log", dir);
    program->log = read_file(path, 0, &n);
    if (code != 0)
        return REFUSED;
    snprintf(path, sizeof path, "%s/k.so", dir);
    program->cubin = read_file(path, sizeof(MockCubin), &program->cubin_bytes);
    if (!program->cubin)
        return BROKEN;
    const MockCubin head = {MOCK_CUBIN_MAGIC, program->cubin_bytes - sizeof head};
    memcpy(program->cubin, &head, sizeof head);
    return 0;
}

EXPORT CuResult nvrtcCompileProgram(NvrtcProgram program, int n_options, const char *const *options)
{
    MOCK("nvrtcCompileProgram", "%s %s", options[0], n_options > 1 ? options[1] : "");
    char dir[] = "/tmp/ptc-mock-nvrtc-XXXXXX", path[512], command[128];
    program->is_virtual = strncmp(options[0], "--gpu-architecture=compute_", 27) == 0;
    if (program->is_virtual)
        return 0;
    if (!mkdtemp(dir))
        return BROKEN;
    snprintf(path, sizeof path, "%s/k.cc", dir);
    FILE *file = fopen(path, "w");
    if (!file)
        return BROKEN;
    fputs(program->text, file);
    print_entries(file, program->text);
    fclose(file);
    const CuResult result = run_compiler(program, dir);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) == 0 ? result : BROKEN;
}

EXPORT CuResult nvrtcGetProgramLogSize(NvrtcProgram program, size_t *size_bytes)
{
    *size_bytes = program->log ? strlen(program->log) + 1 : 1;
    return 0;
}

EXPORT CuResult nvrtcGetProgramLog(NvrtcProgram program, char *log)
{
    strcpy(log, program->log ? program->log : "");
    return 0;
}

EXPORT CuResult nvrtcGetCUBINSize(NvrtcProgram program, size_t *size_bytes)
{
    *size_bytes = program->cubin_bytes;
    return 0;
}

EXPORT CuResult nvrtcGetCUBIN(NvrtcProgram program, char *cubin)
{
    MOCK("nvrtcGetCUBIN", " ");
    memcpy(cubin, program->cubin, program->cubin_bytes);
    return 0;
}

EXPORT CuResult nvrtcGetPTXSize(NvrtcProgram program, size_t *size_bytes)
{
    *size_bytes = strlen(program->text) + 1;
    return 0;
}

EXPORT CuResult nvrtcGetPTX(NvrtcProgram program, char *ptx)
{
    MOCK("nvrtcGetPTX", " ");
    strcpy(ptx, program->text);
    return 0;
}
