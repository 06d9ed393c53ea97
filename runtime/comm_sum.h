/* Arithmetic and copies of all-reduces. */
#ifndef PTC_RUNTIME_COMM_SUM_H
#define PTC_RUNTIME_COMM_SUM_H

#include "runtime/comm.h"

enum
{
    COMM_SUM_MAX_RANKS = 4096
};

/* Every out = the pairwise sum of n_srcs arrays in order: the sum of the first p plus the sum of the rest, p being the
 * largest power of two below n_srcs. n_srcs = 5: ((0 + 1) + (2 + 3)) + 4. An out may be one of srcs. */
void comm_sum_pairwise(const float *const *srcs, uint32_t n_srcs, float *const *outs, uint32_t n_outs, size_t n_elems);

/* Elements [first, first + n_elems) of the concatenation of all slices: from their src to out; from in to their dst.
 * is_long: the whole is larger than what a cache is good for. */
void comm_slices_read(const CommSlice *slices, uint32_t n_slices, size_t first, size_t n_elems, float *out);
void comm_slices_write(const CommSlice *slices, uint32_t n_slices, size_t first, size_t n_elems, const float *in,
                       bool is_long);

#endif
