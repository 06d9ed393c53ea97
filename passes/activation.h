/* Recognises activations (ir/activations.def) written as elementwise ops. */
#ifndef PTC_PASSES_ACTIVATION_H
#define PTC_PASSES_ACTIVATION_H

#include "ir/module.h"

/* The rows' forms as graphs, in functions of a module of their own. */
typedef struct ActivationForms ActivationForms;
ActivationForms *activation_forms(Arena *scratch);

/* When root = act(x) for a row of the table, and nobody else reads what is between x and root if uses are given: the
 * row's name, *out_x and how often the graph reads x; otherwise NULL. */
const char *activation_match(const ActivationForms *forms, const IrModule *m, const IrUses *uses, IrValue root,
                             IrValue *out_x, uint32_t *out_n_reads);

#endif
