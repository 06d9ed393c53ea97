/* Plasticity: how much what a layer makes of the same samples still changes. Egeria (Wang et al., "Egeria: Efficient
 * DNN Training with Knowledge-Guided Layer Freezing", EuroSys 2023, section 4) freezes layers by it.
 *
 * A layer's outputs A (b samples x features) are told by the similarities of the samples, G = A A^T with rows of length
 * 1; its distance from a snapshot of the model is the loss of Tung & Mori ("Similarity-Preserving Knowledge
 * Distillation", 2019), |G - G'|^2 / b^2. A reading is that distance at a decision. */
#ifndef PTC_PASSES_PLASTICITY_H
#define PTC_PASSES_PLASTICITY_H

#include <stdint.h>

enum
{
    PLASTICITY_MAX_WINDOW = 64
};

/* What is known of a layer. */
typedef struct
{
    uint32_t n_readings;
    double recent[PLASTICITY_MAX_WINDOW]; /* the last readings, in a ring: reading i at i % window */
    double smoothed;                      /* the mean of the last `window` of them */
    double steepest;                      /* the largest change of it from one reading to the next so far */
    uint32_t calm;                        /* so many times in a row it has changed by less than `tolerance` of that */
} Plasticity;

/* gram, reference: A A^T of n samples, rows of `stride` numbers. A row of zeros stays one. */
double plasticity_distance(const float *gram, const float *reference, uint32_t n, uint32_t stride);
/* window: 1..PLASTICITY_MAX_WINDOW. */
void plasticity_add(Plasticity *p, uint32_t window, double tolerance, double reading);

#endif
