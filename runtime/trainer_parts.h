/* What the files of the trainer share: trainer.c (creation and the loop), trainer_batch.c, trainer_state.c,
 * trainer_eval.c. */
#ifndef PTC_RUNTIME_TRAINER_PARTS_H
#define PTC_RUNTIME_TRAINER_PARTS_H

#include "runtime/metrics_log.h"
#include "runtime/sampler.h"
#include "runtime/trainer.h"

typedef struct
{
    const char *global;
    const char *field; /* "images", "mask", "sample" */
    int32_t micro;     /* -1: the name has no number */
    const IrType *type;
    Elem elem;
    void *host; /* one micro-batch */
} BatchInput;

struct Trainer
{
    Arena *arena;
    Executor *executor;
    const IrModule *m;
    const Dataset *train, *test;
    TrainerOptions options;
    VEC(BatchInput) inputs;
    float *mask;           /* of one micro-batch */
    uint64_t *indices;     /* of the whole batch */
    uint32_t rank;         /* in the world */
    bool stopped;          /* a signal came to some rank */
    uint64_t step;         /* done */
    uint64_t n_steps_here; /* begun by this process */
    uint64_t total_steps;
    SamplerPosition position;
    MetricsLog *log;
};

/* ---- trainer.c */

double trainer_now_s(void);
__attribute__((format(printf, 2, 3))) void trainer_note(Trainer *t, const char *format, ...);
/* All ranks fail when one does; each with its own words, or saying that it was another. Collective. */
Status trainer_agree(const Trainer *t, Status status);

/* ---- trainer_batch.c */

Elem trainer_elem_of(const IrType *type);
/* Finds the batch inputs of the programs and checks them against the data. */
Status trainer_find_inputs(Trainer *t);
/* Fills the inputs of one micro-batch (micro: -1 for names without a number) with n samples, the first of which is
 * number `first` of the whole batch. */
Status trainer_write_rows(Trainer *t, const Dataset *dataset, const uint64_t *indices, uint32_t n, uint32_t first,
                          int32_t micro);
/* This rank's part of a training batch of n samples, t->indices. */
Status trainer_write_batch(Trainer *t, uint32_t n);
Status trainer_write_scalars(Trainer *t, double lr);

/* ---- trainer_state.c */

Status trainer_initialise(Trainer *t);
Status trainer_load_weights(Trainer *t);
/* From the newest good checkpoint; from the beginning when there is none. */
Status trainer_resume(Trainer *t);
/* A new run must not overwrite another one's checkpoints. */
Status trainer_refuse_used_folder(Trainer *t);
/* Collective; nothing without a folder. */
Status trainer_write_checkpoint(Trainer *t);

/* ---- trainer_eval.c */

/* Adds the outputs NAME.sum and NAME.weight of the last run to a pair of numbers, on the rank that has them. */
Status trainer_add_outputs(Trainer *t, const char *name, double *pair);
double trainer_mean(double sum, double weight);
Status trainer_evaluate_and_log(Trainer *t, TrainerEval *out_eval);

#endif
