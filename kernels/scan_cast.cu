// One pass over the rows: what is wrong with them, their norms, a float16 copy, and column sums.
//
// shapes   X (n_rows, n_features) float32, C order; shift (n_features,) float32: near the mean of the
//          rows, or zero; below, x is a row less the shift
//          out: cast (n_rows, n_features) float16
//               norms, residuals (n_rows,) float32: |x| and |x - cast(x)|
//               flags (n_rows,) uint8: 1 NaN, 2 infinite, 4 the squared norm vanishes, 8 beyond
//               float16
//               column_sums (n_blocks, n_features) float32: of x, rows of a block without flag
// order    a sum runs over lanes first and columns second, and over rows in their order: its bits
//          depend on rows_per_block and on nothing else
// tails    any n_rows, n_features, rows_per_block >= 1
// bytes    reads 4 * n_rows * n_features (a block reads its rows twice, the second time from
//          cache, if the rows of all blocks that run at once fit into it), writes 2 * n_rows * n_features + 9 * n_rows + 4 * n_blocks * n_features
// launch   one block of whole warps for every rows_per_block rows
#include "reduce.cuh"

const int IS_NAN = 1, IS_INFINITE = 2, IS_ZERO = 4, IS_BEYOND_HALF = 8;

extern "C" __global__ void scan_cast_f32(const float* __restrict__ X,
                                         const float* __restrict__ shift, long long n_rows,
                                         int n_features, int rows_per_block,
                                         half_bits* __restrict__ cast, float* __restrict__ norms,
                                         float* __restrict__ residuals, unsigned char* flags,
                                         float* __restrict__ column_sums) {
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, n_warps = blockDim.x / LANES;
  const long long first = (long long)blockIdx.x * rows_per_block;
  const long long last = first + rows_per_block < n_rows ? first + rows_per_block : n_rows;

  for (long long row = first + warp; row < last; row += n_warps) {
    const float* x = X + row * n_features;
    float square = 0, lost = 0;
    int seen = 0;
    for (int f = lane; f < n_features; f += LANES) {
      const float value = x[f] - shift[f];
      const half_bits half = to_half(value);
      const float left = value - from_half(half);
      cast[row * n_features + f] = half;
      square += value * value;
      lost += left * left;
      const float size = fabsf(value);
      if (value != value) seen |= IS_NAN;
      if (size > FLOAT_MAX) seen |= IS_INFINITE;
      if (size > HALF_MAX && size <= FLOAT_MAX) seen |= IS_BEYOND_HALF;
    }
    square = warp_sum(square);
    lost = warp_sum(lost);
    seen = warp_or(seen);
    if (lane == 0) {
      norms[row] = sqrtf(square);
      residuals[row] = sqrtf(lost);
      flags[row] = (unsigned char)(square < FLOAT_MIN ? seen | IS_ZERO : seen);
    }
  }
  __syncthreads();  // the flags of all rows are there
  for (int f = threadIdx.x; f < n_features; f += blockDim.x) {
    float sum = 0;
    for (long long row = first; row < last; ++row) {
      if (flags[row] == 0) sum += X[row * n_features + f] - shift[f];
    }
    column_sums[blockIdx.x * (long long)n_features + f] = sum;
  }
}
