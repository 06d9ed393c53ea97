/* What policy="plasticity" looks at: how alike a batch of training samples is to each layer, with the params as they
 * are now. The samples are the first of epoch 0's order, without augmentation, in the longest length; the program is
 * one of its own on rank 0, which has nothing to do with the plan, so that every layout sees the same numbers. */
#ifndef PTC_DRIVER_PROBE_H
#define PTC_DRIVER_PROBE_H

#include "base/status.h"
#include "runtime/trainer.h"

typedef struct Session Session;

typedef struct
{
    uint32_t n_samples, rows; /* rows of the program's batch: those behind n_samples mean nothing */
    float *grams;             /* [n_layers][rows][rows], in the session's arena; NULL on other ranks */
} Probe;

/* Rows of its batch; the samples, when there are fewer. */
uint32_t probe_rows(const Session *s);
/* Runs it. Collective. */
Status probe_run(Session *s, Trainer *trainer, Probe *out_probe);

#endif
