/* Where a run starts from, and the config.json there: dims with hf= have their values from it, and what <hf> says of
 * the model is checked against it. All of it is also what an export writes (HfSpec). */
#ifndef PTC_FRONTEND_HF_H
#define PTC_FRONTEND_HF_H

#include "frontend/expand.h"

/* Before the dims: reads weights= and init= of <train> and the config.json, when there is one. */
void hf_open(Expander *x, const XmlElem *root, const FrontendOptions *options);
void hf_close(Expander *x);
/* The number of a <dim> of the model: *text is what the model (or --set, then given) says, and becomes what the
 * config.json says for its hf=, unless given. Tells, and returns false, when that has no number of the kind. */
bool hf_dim(Expander *x, const XmlElem *e, const char *name, bool given, const char **text);
/* After the graph. */
void hf_check(Expander *x);

#endif
