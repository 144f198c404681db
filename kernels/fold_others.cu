// Keep each row's score for its own cluster, and the best one for another: what a silhouette needs.
//
// The mean squared distance of a row to the members of a cluster is |x|^2 + q - 2 x.m, where m is
// their mean and q the mean of their squared norms. So this is the search for the nearest center,
// with q / 2 for half the squared norm, and the own cluster apart.
//
// shapes   dots (n_rows, n_cols) float32: x.m of the rows and the clusters first_col ... first_col +
//          n_cols - 1; half_sqnorms (n_clusters,) float32: q / 2 of all clusters; label (n_rows,)
//          int32: the own cluster, or less than 0
//          in and out: own, other (n_rows,) float32: the score x.m - q / 2 of the own cluster, and
//          the largest of the others so far; other_label (n_rows,) int32
// start    own and other are -FLOAT_MAX and other_label 2^31 - 1 before the first tile
// ties     the lower cluster wins
// tails    any n_rows, n_cols >= 1
// bytes    reads 4 * n_rows * n_cols (from L2 where the tile is small enough) and 16 * n_rows, writes
//          12 * n_rows
// launch   grid-stride over rows, a warp for each; blocks of whole warps
#include "reduce.cuh"

extern "C" __global__ void fold_others_f32(const float* __restrict__ dots, long long n_rows,
                                           int n_cols, int first_col,
                                           const float* __restrict__ half_sqnorms,
                                           const int* __restrict__ label, float* __restrict__ own,
                                           float* __restrict__ other,
                                           int* __restrict__ other_label) {
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  for (long long row = first; row < n_rows; row += gridDim.x * (long long)n_warps) {
    const int mine = label[row] - first_col;  // its column, if it is in this tile
    Top2 top = nothing_yet();
    for (int col = lane; col < n_cols; col += LANES) {
      const float score = dots[row * n_cols + col] - half_sqnorms[first_col + col];
      if (col == mine) {
        own[row] = score;
      } else {
        const Top2 one = {score, -FLOAT_MAX, first_col + col};
        top = larger(top, one);
      }
    }
    top = warp_larger(top);
    if (lane == 0) {
      const Top2 before = {other[row], -FLOAT_MAX, other_label[row]};
      top = larger(before, top);
      other[row] = top.best;
      other_label[row] = top.index;
    }
  }
}
