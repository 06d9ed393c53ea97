/* The config.json of a model with <hf>: what a run keeps in its --out, and an export writes. */
#ifndef PTC_DRIVER_HF_CONFIG_H
#define PTC_DRIVER_HF_CONFIG_H

#include "driver/session.h"

/* The config.json that the sizes are from, if they are, with what the model says in its place; names of classes are
 * those of the data. *out_text is in the session's arena; NULL when the model says nothing of Hugging Face. */
Status hf_config_text(Session *s, const char **out_text);
/* Into --out, for whoever goes on with the run: its sizes are there then. Nothing without <hf> and hf=, or on other
 * ranks than 0. */
Status hf_config_keep(Session *s);

#endif
