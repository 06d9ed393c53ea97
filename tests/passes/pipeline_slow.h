/* What tests of pipelines share: stages, lists, and a slow simulator that knows nothing but the rules. Memory is the
 * arena's. */
#ifndef PTC_TESTS_PIPELINE_SLOW_H
#define PTC_TESTS_PIPELINE_SLOW_H

#include "passes/pipeline.h"

/* A fixed sequence from 1 to 2^32 - 1 (xorshift), so that a failure can be repeated. */
uint32_t pipeline_next_random(uint32_t *seed);

PipelineStage *pipeline_equal_stages(Arena *arena, uint32_t n_stages, PipelineStage one);
/* Any times at all: some stages frozen (no backward), some with nothing but W, links from none to slow. */
PipelineStage *pipeline_random_stages(Arena *arena, uint32_t n_stages, uint32_t *seed);

/* Fails the test where a text does not parse. */
PipelineList *pipeline_parse_lists(Arena *arena, const char *const *texts, uint32_t n_stages, uint32_t n_micro);

/* NULL, or in what the slow simulator differs from `times`; buffers 0: no bound. */
const char *pipeline_difference(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                                uint32_t buffers, const PipelineTimes *times);

#endif
