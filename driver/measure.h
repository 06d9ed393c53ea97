/* What the units of the session's model cost: measured on this machine, or modelled. */
#ifndef PTC_DRIVER_MEASURE_H
#define PTC_DRIVER_MEASURE_H

#include "driver/session.h"

/* Fills s->ranks.costs, cost_rows, machine and costs_from, for micro-batches of 1 / n_micro of a batch; the same
 * numbers on every rank. */
Status measure_costs(Session *s, uint32_t n_micro);

#endif
