/* Any bytes as the config.json that a model's dimensions and <hf> are read against: refused with a message, or values
 * for an export that are JSON. Only that part of the frontend runs: the schema would take all the time. */
#include "base/bug.h"
#include "frontend/hf.h"

#include <jansson.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static const char model[] = "<model name=\"m\">"
                            "<dim name=\"d\" value=\"8\" hf=\"hidden_size\"/>"
                            "<dim name=\"layers\" value=\"1\" hf=\"num_hidden_layers n_layer?\"/>"
                            "<dim name=\"hidden\" value=\"{4 * d}\" hf=\"n_inner?\"/>"
                            "<dim name=\"p\" value=\"0.5\" hf=\"dropout?\"/>"
                            "<dim name=\"theta\" value=\"1e4\" hf=\"rope_parameters.rope_theta rope_theta?\"/>"
                            "<dim name=\"tied\" value=\"true\" hf=\"tie_word_embeddings?\"/>"
                            "<hf class=\"BertModel\" model=\"bert\" classes=\"2\">"
                            "<config name=\"hidden_act\" value=\"gelu|gelu_new\"/>"
                            "<config name=\"rope.a.b?\" value=\"null\"/>"
                            "<config name=\"head_dim?\" value=\"{d}\"/>"
                            "<config name=\"type_vocab_size\" value=\"2\"/></hf>"
                            "</model>";

static void check_values(const HfSpec *hf)
{
    for (uint32_t i = 0; i < hf->n_values; i++)
    {
        json_t *value = json_loads(hf->values[i].json, JSON_DECODE_ANY, NULL);
        ENSURE(value);
        json_decref(value);
    }
}

static void read_config(Arena *arena, Diag *diag, const char *path)
{
    const FrontendOptions options = {.config = path};
    Job job = {.module = ir_module_create(arena, "m")};
    Expander x = {.arena = arena, .diag = diag, .job = &job, .m = job.module};
    const Source *source = source_from_text(arena, diag, "fuzz.xml", model, sizeof model - 1);
    XmlElem *root = xml_parse(arena, diag, source);
    ENSURE(root && elements_check(arena, diag, root, EL_model));
    x.root = x.frame = frame_open(&x, NULL, false, "", "");
    hf_open(&x, root, &options);
    job_dims(&x, root);
    const bool known = diag_error_count(diag) == 0;
    for (const XmlElem *e = root->first; e && known; e = e->next)
        if (e->id == EL_hf)
            expand_hf(&x, e);
    hf_check(&x);
    hf_close(&x);
    check_values(&job.hf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    char path[64];
    int file = memfd_create("config", MFD_CLOEXEC);
    ENSURE(file >= 0 && write(file, data, size_bytes) == (ssize_t)size_bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    Arena *arena = arena_create();
    read_config(arena, diag_create(arena), path);
    arena_destroy(arena);
    close(file);
    return 0;
}
