/* ptc export: the weights of a checkpoint, or of a folder, as a folder that Hugging Face `transformers` loads. */
#include "driver/hf_config.h"
#include "driver/session.h"
#include "ir/init.h"
#include "runtime/checkpoint.h"
#include "runtime/hf_folder.h"
#include "runtime/pretrained.h"

#include <string.h>
#include <sys/stat.h>

typedef struct
{
    Checkpoint *checkpoint; /* one of the two is NULL */
    Pretrained *weights;
} Source;

static Status open_source(Session *s, Source *out_source)
{
    const TrainSpec *train = &s->job->train;
    StrBuf told = strbuf_make(s->arena);
    *out_source = (Source){0};
    if (s->options->out_dir)
    {
        TRY(checkpoint_open(s->options->out_dir, &told, &out_source->checkpoint));
        fputs(strbuf_text(&told), stderr);
        return out_source->checkpoint
                   ? STATUS_OK
                   : status_fail(STATUS_BAD_INPUT, "there is no checkpoint in '%s'", s->options->out_dir);
    }
    TRY(pretrained_open(train->weights, &out_source->weights));
    Status status = pretrained_compare(out_source->weights, s->job->module, !train->weights_partial, &told);
    fputs(strbuf_text(&told), stderr);
    return status;
}

static void close_source(Source *source)
{
    if (source->checkpoint)
        checkpoint_close(source->checkpoint);
    pretrained_close(source->weights);
}

/* What the weights lack has its initial value, as in a run with --init=partial. */
static Status read_param(const Session *s, const Source *source, const IrGlobalData *param, float *out)
{
    NamedTensor expected = {.name = param->name, .elem = ELEM_F32, .rank = param->type.rank};
    const NamedTensor *found;
    memcpy(expected.dims, param->type.dims, sizeof expected.dims);
    if (source->checkpoint)
        return safetensors_read(checkpoint_model(source->checkpoint), &expected, out);
    if (pretrained_match(source->weights, param, &found) <= PRETRAINED_CAST)
        return pretrained_read(source->weights, param, out);
    ir_init_fill(out, &param->type, ir_attrs_str(&param->attrs, IR_ATTR_init), (uint64_t)s->job->train.seed,
                 param->name);
    return STATUS_OK;
}

/* All params in their pretrained layout; arena memory. */
static Status read_params(Session *s, const Source *source, HfFolder *folder)
{
    const IrModule *m = s->job->module;
    NamedTensor *tensors = ARENA_ARRAY(s->arena, NamedTensor, m->globals.len);
    folder->tensors = tensors;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *param = ir_global(m, g);
        if (param->kind != IR_GLOBAL_PARAM)
            continue;
        const size_t n = (size_t)ir_type_n_elems(&param->type);
        float *here = ARENA_ARRAY(s->arena, float, n), *there = ARENA_ARRAY(s->arena, float, n);
        TRY(read_param(s, source, param, here));
        NamedTensor *tensor = &tensors[folder->n_tensors];
        pretrained_lay_out(param, here, there, tensor);
        for (uint32_t i = 0; i < folder->n_tensors; i++)
            if (strcmp(tensors[i].name, tensor->name) == 0)
                return status_fail(STATUS_BAD_INPUT,
                                   "two params are called '%s' in pretrained weights: see hf= of '%s'", tensor->name,
                                   param->name);
        folder->n_tensors++;
    }
    return STATUS_OK;
}

/* The one tokenizer of the text fields. */
static Status find_tokenizer(const Session *s, const char **out_path)
{
    const DataSpec *data = &s->job->data;
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        const char *path = data->fields[i].tokenizer;
        if (path && *out_path && strcmp(path, *out_path) != 0)
            return status_fail(STATUS_BAD_INPUT, "two tokenizers, '%s' and '%s': a folder holds one", *out_path, path);
        *out_path = path ? path : *out_path;
    }
    return STATUS_OK;
}

static Status export(Session *s)
{
    const Options *options = s->options;
    const char *weights = s->job->train.weights;
    struct stat info;
    HfFolder folder = {0};
    Source source;
    if (!options->output)
        return status_fail(STATUS_USAGE, "ptc export wants -o, the folder to write");
    if (!options->out_dir && !weights)
        return status_fail(STATUS_USAGE, "ptc export wants --out (a folder with checkpoints) or --weights");
    if (!s->job->hf.class_name)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no <hf class= model=>: what it is for Hugging Face is not known",
                           options->operand);
    TRY(hf_folder_check(options->output, options->force));
    TRY(find_tokenizer(s, &folder.tokenizer));
    TRY(hf_config_text(s, &folder.config));
    if (weights && stat(weights, &info) == 0 && S_ISDIR(info.st_mode))
        folder.weights = weights;
    Status status = open_source(s, &source);
    if (status == STATUS_OK)
        status = read_params(s, &source, &folder);
    if (status == STATUS_OK)
        status = hf_folder_write(options->output, &folder, options->force);
    if (status == STATUS_OK && source.checkpoint)
        printf("%s: %u tensors of step %llu\n", options->output, folder.n_tensors,
               (unsigned long long)checkpoint_state(source.checkpoint)->step);
    else if (status == STATUS_OK)
        printf("%s: %u tensors of '%s'\n", options->output, folder.n_tensors, weights);
    close_source(&source);
    return status;
}

Status cmd_export(Arena *arena, const Options *options)
{
    Session session;
    Options here = *options;
    here.resume = options->out_dir != NULL;
    Status status = session_load(arena, &here, &session);
    if (status == STATUS_OK)
        status = export(&session);
    return session_close(&session, status);
}
