/* A checkpoint whose every byte follows from its step, so that a reader can tell a torn or mixed one. */
#ifndef PTC_TESTS_CHECKPOINT_STATE_H
#define PTC_TESTS_CHECKPOINT_STATE_H

#include "data_test.h"

#include "runtime/checkpoint.h"

#include <stdlib.h>

enum
{
    N_VALUES = 40000
};

static inline Status write_step(const char *out_dir, uint64_t step, uint32_t keep_last)
{
    float *weights = malloc(sizeof(float) * N_VALUES);
    float *moments = malloc(sizeof(float) * N_VALUES);
    assert_true(weights && moments);
    for (int i = 0; i < N_VALUES; i++)
    {
        weights[i] = (float)step + (float)i;
        moments[i] = (float)step - (float)i;
    }
    const NamedTensor model = {.name = "w", .elem = ELEM_F32, .rank = 1, .dims = {N_VALUES}, .data = weights};
    const NamedTensor optimizer = {.name = "w.m", .elem = ELEM_F32, .rank = 1, .dims = {N_VALUES}, .data = moments};
    const CheckpointState state = {.step = step,
                                   .epoch = step / 10,
                                   .consumed = step % 10 * 7,
                                   .seed = UINT64_MAX - 3,
                                   .model_digest = "abc",
                                   .metrics_json = "{\"best\":0.1,\"name\":\"x\"}"};
    Status status = checkpoint_write(out_dir, &state, &model, 1, &optimizer, 1, keep_last);
    free(weights);
    free(moments);
    return status;
}

/* Fails the test unless it is the checkpoint that write_step writes for its step. */
static inline void expect_whole(const Checkpoint *checkpoint)
{
    const CheckpointState *state = checkpoint_state(checkpoint);
    assert_int_equal(state->epoch, state->step / 10);
    assert_int_equal(state->consumed, state->step % 10 * 7);
    assert_true(state->seed == UINT64_MAX - 3);
    assert_string_equal(state->model_digest, "abc");
    assert_string_equal(state->metrics_json, "{\"best\":0.10000000000000001,\"name\":\"x\"}");
    float *values = malloc(sizeof(float) * N_VALUES);
    assert_non_null(values);
    const NamedTensor w = {.name = "w", .elem = ELEM_F32, .rank = 1, .dims = {N_VALUES}};
    const NamedTensor m = {.name = "w.m", .elem = ELEM_F32, .rank = 1, .dims = {N_VALUES}};
    EXPECT_OK(safetensors_read(checkpoint_model(checkpoint), &w, values));
    for (int i = 0; i < N_VALUES; i++)
        assert_true(values[i] == (float)state->step + (float)i);
    EXPECT_OK(safetensors_read(checkpoint_optimizer(checkpoint), &m, values));
    for (int i = 0; i < N_VALUES; i++)
        assert_true(values[i] == (float)state->step - (float)i);
    free(values);
}

#endif
