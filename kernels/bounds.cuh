// The score of a row and a center from a product of their float16 copies, between two bounds.
#pragma once
#include "portable.cuh"

struct Bounds {
  float lower;
  float upper;
};

// What is known of each center: columns of a table (5, n_centers) float32: the power of two its copy
// was divided by, what is taken off the product, and the error of the score for a norm of 1, for a
// residual of 1, and whatever the row.
struct Columns {
  const float* scale;
  const float* offset;
  const float* per_norm;
  const float* per_residual;
  const float* alone;
};

__device__ __forceinline__ Columns columns_of(const float* table, int n_centers) {
  const long long width = n_centers;
  const Columns columns = {table, table + width, table + 2 * width, table + 3 * width,
                           table + 4 * width};
  return columns;
}

// A score that is no number has the bounds -FLOAT_MAX and FLOAT_MAX.
__device__ __forceinline__ Bounds bounds_of(float dot, float scale, float norm, float residual,
                                            const Columns& columns, int center) {
  // one scale after the other: their product may vanish where the score does not
  const float score = dot * scale * columns.scale[center] - columns.offset[center];
  const float error = norm * columns.per_norm[center] +
                      (residual * columns.per_residual[center] + columns.alone[center]);
  const bool known = fabsf(score) + error <= FLOAT_MAX;  // false for NaN
  const Bounds bounds = {known ? score - error : -FLOAT_MAX, known ? score + error : FLOAT_MAX};
  return bounds;
}
