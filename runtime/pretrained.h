/* Pretrained weights: a safetensors file, or a folder in the manner of Hugging Face (model.safetensors, or
 * model.safetensors.index.json with its shards), and how the params of a model are found in it: by the attribute hf (or
 * the param's own name), converted to f32 from f16, bf16 and f64, and moved to the param's layout (attributes hf_dims,
 * hf_perm, hf_shape; docs/model-language.md, params). A name that is not there is looked for without its first part
 * ("bert."), as in the folder of a model without a head, then with gamma and
 * beta for weight and bias at its end, as older files of BERT have it; and last under the param's own name, in its own
 * layout, as in our checkpoints. */
#ifndef PTC_RUNTIME_PRETRAINED_H
#define PTC_RUNTIME_PRETRAINED_H

#include "base/status.h"
#include "base/strbuf.h"
#include "ir/module.h"
#include "runtime/elem.h"

typedef struct Pretrained Pretrained;

/* BAD_INPUT: a file is damaged, a shard is missing, the index names a tensor that its shard lacks or lacks one that a
 * shard has. Files are mapped: tensors cost memory when they are read. */
Status pretrained_open(const char *path, Pretrained **out_pretrained);
void pretrained_close(Pretrained *pretrained); /* NULL is allowed */

/* NULL when there is no tensor of that name. */
const NamedTensor *pretrained_find(const Pretrained *pretrained, const char *name);
uint32_t pretrained_count(const Pretrained *pretrained);
const NamedTensor *pretrained_tensor(const Pretrained *pretrained, uint32_t i);

typedef enum
{
    PRETRAINED_EXACT, /* the tensor is the param: name, shape, dtype or a cast */
    PRETRAINED_CAST,
    PRETRAINED_MISSING,    /* no such tensor */
    PRETRAINED_WRONG_SHAPE /* there is one, but of another shape */
} PretrainedMatch;

/* What the weights hold for a param; *out_tensor is NULL when it is missing. */
PretrainedMatch pretrained_match(const Pretrained *pretrained, const IrGlobalData *param,
                                 const NamedTensor **out_tensor);
/* The name of the param there. */
const char *pretrained_name(const IrGlobalData *param);

/* How the params of m and the tensors fit, as a table: missing (with the nearest name among the unexpected ones), wrong
 * shapes, tensors that no param wants (but for integers, which are no weights), casts. Nothing is added when all fit
 * without a cast. strict: anything missing, of a wrong shape or unexpected is BAD_INPUT (the table says what).
 * Otherwise params that are missing or do not fit are left to their initialisers, and it is STATUS_OK unless no param
 * at all is found. */
Status pretrained_compare(const Pretrained *pretrained, const IrModule *m, bool strict, StrBuf *table);

/* Reads the tensor of a param that is EXACT or CAST; dst has room for the param. NaN and infinities are BAD_INPUT. */
Status pretrained_read(const Pretrained *pretrained, const IrGlobalData *param, float *dst);

/* The other way: the param's numbers (f32) in the layout of the pretrained tensor, for export; dst has as many
 * elements. *out_tensor gets name, shape and dst. */
void pretrained_lay_out(const IrGlobalData *param, const float *src, float *dst, NamedTensor *out_tensor);

#endif
