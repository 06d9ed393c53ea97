/* The frontend: a model written in XML (docs/model-language.md) becomes a job: the IR of one forward pass in training
 * mode, and the description of its data and of its training.
 *
 * What is wrong with the model is told in the Diag, with a place; the status then is BAD_INPUT. A file that cannot be
 * read at all is a diagnostic too. All memory is the job arena's; nothing outlives the call but what it returns. */
#ifndef PTC_FRONTEND_FRONTEND_H
#define PTC_FRONTEND_FRONTEND_H

#include "base/diag.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "ir/metric.h"
#include "ir/module.h"

typedef struct
{
    /* "PATH=VALUE", as given to --set: "d=96", "train.lr=0.001", "data.train_limit=1000",
     * "data.images.train=/tmp/x.gz". PATH is a <dim>, an attribute of <train> or <data>, or of a <field> by its name.
     */
    const char *const *overrides;
    uint32_t n_overrides;
    int64_t
        micro_batches; /* parts of the batch: the module's `b` is ceil(batch / parts); 0: what <cluster> says, or 1 */
    int64_t length;    /* the job for one of its buckets (DataSpec.buckets); 0: for the longest */
    const char *weights, *init; /* --weights and --init, instead of those of <train>; NULL: not given */
    const char *config;         /* a config.json instead of the one beside the weights; NULL: that one */
    int64_t synthetic; /* samples of random values instead of all files, and no test split; 0: the files of the model */
    bool may_lack_weights; /* the folder of <train weights> may be missing: the model then has none */
    bool with_outputs;     /* @train sets the values of <output>, which cost memory */
    const char *lib_dir;   /* the library of blocks; NULL: $PTC_LIB, else PTC_LIB_DIR compiled in, else none */
    uint64_t max_bytes;    /* of one file; 0: 16 MB */
    uint64_t max_ops;      /* of the expanded graph; 0: one million */
} FrontendOptions;

/* The global of <output name="x"> is "output.x.rows". */
#define FRONTEND_OUTPUT_START "output."
#define FRONTEND_OUTPUT_END   ".rows"

typedef enum
{
    DATA_IDX,       /* IDX file, plain or gzip */
    DATA_SYNTHETIC, /* random values: integers low..high, or floats uniform in low..high */
    DATA_CIFAR,     /* binary files of CIFAR-10 or CIFAR-100 */
    DATA_IMAGES,    /* JPEG and PNG files */
    DATA_TEXT,      /* columns of a table: a part of their tokens */
    DATA_LABEL,     /* column of a table: a class */
    DATA_NUMBER,    /* column of a table: a number */
    DATA_PACKED,    /* column of a table: a part of all its tokens, in blocks */
    DATA_SQUAD,     /* questions on texts: a part of a window's tokens, or of the answer's place */
    DATA_FORMAT_COUNT
} DataFormat;

/* What the part "image" of a field does to its images; as in elements.def. */
typedef struct
{
    int64_t resize, pad;
    const char *crop; /* "center", "random", "resized", "none" */
    bool flip;
    double mean[3], std[3]; /* of each channel */
    Span span;              /* of mean or std; no file: neither is given */
} DataImage;

/* One column of the data set: fills the global input "batch.<name>". */
typedef struct
{
    const char *name;
    DataFormat format;
    const char *train_path; /* relative paths are already joined to the model's folder; NULL: no such split */
    const char *test_path;
    IrType sample_type;     /* of one sample: the <input>'s type without its first axis */
    int64_t n_classes;      /* > 0: every value must be in 0..n_classes-1 */
    double low, high;       /* SYNTHETIC */
    const char *table;      /* tables: "csv", "tsv", "jsonl", "txt"; NULL: as the file's name ends */
    const char *columns[2]; /* of the table; NULL: none; two are a pair of texts */
    const char *tokenizer;  /* TEXT, PACKED, SQUAD: a path like train_path */
    const char *part;       /* TEXT, SQUAD: "ids", "mask", "types"; SQUAD: "first", "last"; PACKED: "ids", "targets",
                             * "documents", "mask"; CIFAR, IMAGES: "image", "label", "coarse" */
    int64_t stride;         /* SQUAD: tokens that windows share */
    DataImage image;        /* part "image" */
    Span span;              /* of the <field> */
    Span train_span;        /* of the path in it, for messages about the file */
    Span test_span;
    Span columns_span;
    Span tokenizer_span;
} DataField;

typedef struct
{
    DataField *fields;
    uint32_t n_fields;
    int64_t train_limit; /* the first so many samples; 0: all. For SYNTHETIC: how many there are */
    int64_t test_limit;
    bool shuffle;            /* a new order every epoch */
    const char *bucket_dim;  /* the <dim> of which there are several lengths; NULL: none */
    const int64_t *buckets;  /* they, ascending; the last one is the <dim>'s value in the file */
    uint32_t n_buckets;      /* 0: none */
    int64_t group_by_length; /* batches within which training samples are sorted by length; 0: none */
    Span span;
} DataSpec;

typedef enum
{
    SCHEDULE_CONSTANT,
    SCHEDULE_LINEAR, /* to min_lr at the last step */
    SCHEDULE_COSINE
} TrainSchedule;

typedef struct
{
    int64_t epochs;
    int64_t max_steps;     /* 0: no limit but the epochs */
    int64_t batch;         /* samples a step */
    int64_t micro_batches; /* parts of it */
    int64_t rows;          /* of one part: ceil(batch / micro_batches), the `b` of the module */
    const char *optimizer; /* also an attribute of @train, with its settings */
    double lr;
    double min_lr; /* where LINEAR and COSINE end */
    TrainSchedule schedule;
    int64_t warmup_steps; /* linear from lr / warmup_steps; the schedule goes on from there */
    double momentum, beta1, beta2, eps, weight_decay;
    double clip_norm;      /* 0: none */
    const char *precision; /* f32, tf32, bf16; also an attribute of @train, unless f32 */
    int64_t seed;
    int64_t eval_every;       /* epochs; 0: only at the end */
    int64_t checkpoint_every; /* steps; 0: only at the end */
    int64_t log_every;        /* steps between rows of metrics.jsonl */
    const char *weights;      /* a file or a folder that the run starts from; NULL: the initialisers */
    bool weights_partial;
    Span span;
} TrainSpec;

/* The wish about the layout on ranks; 0, NULL, "auto": none. */
typedef struct
{
    int64_t stages, replicas, micro_batches;
    const char *schedule;
    const int64_t *cuts; /* the first unit of every stage but the first, ascending */
    uint32_t n_cuts;
    double memory_gib;
    bool deterministic;
    bool paper; /* planned by passes/planner_paper.h */

    /* of a described cluster */
    int64_t nodes, devices; /* devices of one node; nodes 0: none is described */
    double tflops, memory_gb_s, op_us, link_gb_s, host_link_gb_s, node_link_gb_s, host_gib, switch_s;
    Span span;
} ClusterSpec;

/* A value of config.json: `a.b` is the member b of the object a. */
typedef struct
{
    const char **names; /* what it is called; the first is the current name, the others are of older files */
    uint32_t n_names;
    const char *json; /* number, string, true, false or null */
} HfValue;

/* What the model is for Hugging Face. */
typedef struct
{
    const char *class_name; /* "BertForSequenceClassification"; NULL: the model has no <hf> */
    const char *model_type; /* "bert" */
    const char *labels;     /* the field whose classes are id2label; NULL: none */
    int64_t n_classes;      /* 0: it has none */
    const char *config;     /* path of the config.json that dims have their values from; NULL: none */
    const char *dims;       /* "d=384 (768), layers=6 (12)": those that are not as in the model; NULL: none */
    const HfValue *values;  /* of dims with hf= and of <config>, model_type is one */
    uint32_t n_values;
    Span span;
} HfSpec;

/* A <metric>: what the outputs about it hold is in ir/metrics.def. */
typedef struct
{
    const char *name;
    IrMetricKind kind;
    int64_t n_best, max_answer; /* span: runtime/squad.h */
    int64_t n_tokens;           /* span: t of the scores [b t] */
    Span span;
} JobMetric;

typedef enum
{
    CACHE_AUTO,
    CACHE_ON,
    CACHE_OFF
} CacheUse;

/* The outputs of frozen layers, kept by sample. */
typedef struct
{
    CacheUse use;
    double memory_gib; /* 0: the default */
    double disk_gib;
    bool bf16;
    Span span;
} CacheSpec;

/* When layers are frozen (passes/freeze_policy.h); policy NULL: never. */
typedef struct
{
    const char *policy;
    double alpha, percentile, tolerance;
    int64_t window, patience, renew;
    bool inclusive, guard;
    const int64_t *counts; /* explicit: frozen layers after each decision */
    uint32_t n_counts;
    int64_t every;       /* epochs between decisions */
    int64_t every_steps; /* steps between decisions, when not 0 */
    int64_t warmup, keep;
    Span span;
} FreezeSpec;

typedef struct
{
    IrModule
        *module; /* @train: the forward graph in training mode (dropout is there); reads and sets the globals below */
    DataSpec data;
    TrainSpec train;
    ClusterSpec cluster;
    FreezeSpec freeze;
    CacheSpec cache;
    const int64_t *layers; /* the first unit of each layer, and of what is behind the last; NULL: no layers */
    uint32_t n_layers;
    HfSpec hf;
    const char *path; /* of the model file */
    const JobMetric *metrics;
    uint32_t n_metrics;
    uint32_t n_units;
} Job;

/* The globals of @train, besides the params:
 *   inputs   "batch.<field>" [B, ...], B = TrainSpec.rows; "batch.mask" f32[B] (1: a sample, 0: padding); when dropout
 * is used "rng.key" i32[2] and "batch.sample" i32[B] outputs  "loss" f32[] = loss.sum / max(loss.weight, 1e-20);
 * "loss.sum", "loss.weight"; those of metrics (ir/metrics.def). Every op and every param carries its unit, counted from
 * 1 (docs/model-language.md, units). */
Status frontend_load(Arena *arena, Diag *diag, const char *path, const FrontendOptions *options, Job **out_job);

/* The same from memory; path is what messages call it, and its folder is where includes and data are looked for. */
Status frontend_load_text(Arena *arena, Diag *diag, const char *path, const char *text, size_t n_bytes,
                          const FrontendOptions *options, Job **out_job);

/* Reads a file whose root is <cluster>: what describes machines replaces that of *cluster. */
Status frontend_load_cluster(Arena *arena, Diag *diag, const char *path, ClusterSpec *cluster);

/* The grammar as an XML Schema, generated from elements.def (`ptc schema`). */
void frontend_schema_text(StrBuf *buf);

#endif
