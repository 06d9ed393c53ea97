/* For driver/elastic.c: what policy="plasticity" knows of the layers' outputs. */
#ifndef PTC_DRIVER_ELASTIC_OUTPUTS_H
#define PTC_DRIVER_ELASTIC_OUTPUTS_H

#include "base/strbuf.h"
#include "runtime/trainer.h"

#include <jansson.h>

typedef struct Session Session;

/* Before a decision: takes readings of elastic.plasticity, the same on every rank. Collective. */
Status elastic_look_at_outputs(Session *s, Trainer *trainer);
/* By layer, for logs; in the session's arena. */
const double *elastic_smoothed(const Session *s);
/* Adds the fields of the state in checkpoints, each with a comma before it; nothing when nothing is known. */
void elastic_add_outputs(const Session *s, StrBuf *text);
/* False when they are there, but not of this job. */
bool elastic_read_outputs(Session *s, const json_t *state);

#endif
