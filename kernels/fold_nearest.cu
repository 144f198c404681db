// Keep of each row the nearest center, and what proves it, from a tile of products just written.
//
// A score x.c - h is the larger, the nearer the center. It is known up to an error that depends on
// row and center, so it lies between two bounds. The center with the largest upper bound is the
// nearest for certain if its lower bound is above the upper bounds of all others.
//
// shapes   dots (n_rows, n_cols) float32: products of the copies of rows first_row ... first_row +
//          n_rows - 1 and of centers first_col ... first_col + n_cols - 1
//          columns (5, n_centers) float32: what is known of the centers (bounds.cuh)
//          of all rows, of which those of the tile are looked at:
//          scales, norms, residuals (n_total,) float32: as scan_cast gives them
//          skip (n_total,) int32: a center that is none for this row, or less than 0
//          in and out: best, second (n_total,) float32: the two largest upper bounds so far; floor
//          (n_total,) float32: the lower bound of the best; label (n_total,) int32: where the best
//          is
// start    best, second and floor are -FLOAT_MAX and label 2^31 - 1 before the first tile
// ties     the lower center wins, and the second is then equal to the best
// unknown  a score that is no number proves nothing
// tails    any n_rows, n_cols >= 1
// bytes    reads 4 * n_rows * n_cols (from L2 where the tile is small enough) and 32 * n_rows, writes
//          16 * n_rows
// launch   grid-stride over rows, a warp for each; blocks of whole warps
#include "bounds.cuh"
#include "reduce.cuh"

extern "C" __global__ void fold_nearest_f32(
    const float* __restrict__ dots, long long first_row, long long n_rows, int n_cols,
    int first_col, int n_centers,
    const float* __restrict__ columns, const float* __restrict__ scales,
    const float* __restrict__ norms, const float* __restrict__ residuals,
    const int* __restrict__ skip, float* __restrict__ best, float* __restrict__ second,
    float* __restrict__ floor, int* __restrict__ label) {
  const Columns known = columns_of(columns, n_centers);
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  for (long long at = first; at < n_rows; at += gridDim.x * (long long)n_warps) {
    const long long row = first_row + at;
    const float scale = scales[row], norm = norms[row], residual = residuals[row];
    const int skipped = skip[row];
    Nearest found = nothing_yet();
    for (int col = lane; col < n_cols; col += LANES) {
      const int center = first_col + col;
      if (center == skipped) continue;
      const Bounds of =
          bounds_of(dots[at * n_cols + col], scale, norm, residual, known, center);
      const Nearest one = {of.upper, -FLOAT_MAX, of.lower, center};
      found = nearer(found, one);
    }
    found = warp_nearest(found);
    if (lane == 0) {
      const Nearest before = {best[row], second[row], floor[row], label[row]};
      found = nearer(before, found);
      best[row] = found.upper;
      second[row] = found.second;
      floor[row] = found.lower;
      label[row] = found.index;
    }
  }
}
