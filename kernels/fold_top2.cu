// Keep the two best centers of each row, from a tile of products that was just written.
//
// shapes   dots (n_rows, n_cols) float32: x.c of the rows and the centers first_col ... first_col +
//          n_cols - 1; half_sqnorms (n_centers,) float32: |c|^2 / 2 of all centers
//          in and out: best, second (n_rows,) float32: the largest x.c - |c|^2 / 2 so far, which is
//          (|x|^2 - |x - c|^2) / 2, so the nearest center has the largest; label (n_rows,) int32
// start    best and second are -FLOAT_MAX and label 2^31 - 1 before the first tile
// ties     the lower center wins, and the second is then equal to the best
// tails    any n_rows, n_cols >= 1
// bytes    reads 4 * n_rows * n_cols (from L2 where the tile is small enough), reads and writes
//          12 * n_rows
// launch   grid-stride over rows, a warp for each; blocks of whole warps
#include "reduce.cuh"

extern "C" __global__ void fold_top2_f32(const float* __restrict__ dots, long long n_rows,
                                         int n_cols, int first_col,
                                         const float* __restrict__ half_sqnorms,
                                         float* __restrict__ best, float* __restrict__ second,
                                         int* __restrict__ label) {
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  for (long long row = first; row < n_rows; row += gridDim.x * (long long)n_warps) {
    Top2 top = nothing_yet();
    for (int col = lane; col < n_cols; col += LANES) {
      const float score = dots[row * n_cols + col] - half_sqnorms[first_col + col];
      const Top2 one = {score, -FLOAT_MAX, first_col + col};
      top = larger(top, one);
    }
    top = warp_larger(top);
    if (lane == 0) {
      const Top2 before = {best[row], second[row], label[row]};
      top = larger(before, top);
      best[row] = top.best;
      second[row] = top.second;
      label[row] = top.index;
    }
  }
}
