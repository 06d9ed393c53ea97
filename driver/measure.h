/* What the units of the session's model cost: measured on this machine, or modelled. */
#ifndef PTC_DRIVER_MEASURE_H
#define PTC_DRIVER_MEASURE_H

#include "driver/session.h"

/* Fills s->ranks.costs, cost_rows, machine and costs_from, for micro-batches of 1 / n_micro of a batch; the same
 * numbers on every rank. */
Status measure_costs(Session *s, uint32_t n_micro);

/* Rates of messages between neighbours and of a sum over all ranks, while everybody does the same, between the devices
 * that compute: where those have memory of their own, by the way that they exchange by. Collective. */
Status measure_link(Session *s, CostMachine *machine);

/* The same as measure_costs by model, for another machine; out_starts: of it, the times that starting ops takes, which
 * do not grow with the rows. Both get n_units + 1 entries; out_costs lacks what out_starts has. The job is then loaded
 * with n_micro micro-batches. */
Status measure_described(Session *s, uint32_t n_micro, const CostMachine *machine, UnitCost **out_costs,
                         UnitCost **out_starts);

#endif
