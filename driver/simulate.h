/* ptc plan --simulate: a whole elastic job on a described cluster; with -n N, on so many ranks here, whose costs they
 * measure. */
#ifndef PTC_DRIVER_SIMULATE_H
#define PTC_DRIVER_SIMULATE_H

#include "driver/driver.h"

Status simulate_job(Arena *arena, const Options *options);

#endif
