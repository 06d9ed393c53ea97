/* Any bytes as the config.json that a model's dimensions and <hf> are read against: refused, or a job whose values for
 * an export are JSON. */
#include "frontend/frontend.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static const char model[] =
    "<model name=\"m\">"
    "<dim name=\"d\" value=\"8\" hf=\"hidden_size\"/>"
    "<dim name=\"layers\" value=\"1\" hf=\"num_hidden_layers n_layer?\"/>"
    "<dim name=\"p\" value=\"0.5\" hf=\"dropout?\"/>"
    "<dim name=\"theta\" value=\"1e4\" hf=\"rope_parameters.rope_theta rope_theta?\"/>"
    "<dim name=\"tied\" value=\"true\" hf=\"tie_word_embeddings?\"/>"
    "<data train_limit=\"4\"><field name=\"x\" format=\"synthetic\"/></data>"
    "<train epochs=\"1\" batch=\"2\" optimizer=\"sgd\" lr=\"1\"/>"
    "<hf class=\"BertModel\" model=\"bert\" classes=\"2\">"
    "<config name=\"hidden_act\" value=\"gelu|gelu_new\"/><config name=\"rope.a.b?\" value=\"null\"/>"
    "<config name=\"type_vocab_size\" value=\"2\"/></hf>"
    "<input name=\"x\" dtype=\"f32\" shape=\"b 8\"/>"
    "<reduce in=\"x\" op=\"mean\" pattern=\"b d -> b\"/><if test=\"tied &amp;&amp; layers &lt; 3\"><map expr=\"_ * "
    "{p}\"/></if>"
    "<loss/></model>";

static void check_values(const HfSpec *hf)
{
    for (uint32_t i = 0; i < hf->n_values; i++)
    {
        json_t *value = json_loads(hf->values[i].json, JSON_DECODE_ANY, NULL);
        if (!value)
            abort();
        json_decref(value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    char path[64];
    int file = memfd_create("config", MFD_CLOEXEC);
    if (file < 0 || write(file, data, size_bytes) != (ssize_t)size_bytes)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const FrontendOptions options = {.config = path, .max_ops = 1000};
    Job *job;
    if (frontend_load_text(arena, diag, "fuzz.xml", model, sizeof model - 1, &options, &job) == STATUS_OK)
        check_values(&job->hf);
    else if (diag_error_count(diag) == 0)
        abort();
    status_clear();
    arena_destroy(arena);
    close(file);
    return 0;
}
