// One pass over the rows: what is wrong with them, their norms, a float16 copy, and column sums.
//
// A copy is that of the row times a power of two, which loses nothing: by its norm, so that float16
// is used well whatever the unit of the data, or one power for all, where copies of several rows are
// added up.
//
// shapes   X (n_rows, n_features) float32, C order; shift (n_features,) float32: near the mean of the
//          rows, or zero; below, x is a row less the shift
//          exponent: of the power that all rows are divided by; BY_ROW: that of each row's norm, less 8
//          out: cast (n_rows, n_features) float16: x / scale
//               scales, norms, residuals (n_rows,) float32: the power, |x|, and |x - scale * cast|
//               flags (n_rows,) uint8: 1 NaN, 2 infinite, 4 the squared norm vanishes, 8 beyond
//               float16
//               column_sums (n_blocks, n_features) float32: of x, rows of a block without flag;
//               not touched unless with_sums
// order    a sum runs over lanes first and columns second, and over rows in their order: its bits
//          depend on rows_per_block and on nothing else
// tails    any n_rows, n_features, rows_per_block >= 1
// bytes    reads 4 * n_rows * n_features (a warp reads its row twice and a block its rows once more
//          for sums, from cache, if the rows of all blocks that run at once fit into it), writes
//          2 * n_rows * n_features + 13 * n_rows, and 4 * n_blocks * n_features of sums
// launch   one block of whole warps for every rows_per_block rows
#include "reduce.cuh"

const int IS_NAN = 1, IS_INFINITE = 2, IS_ZERO = 4, IS_BEYOND_HALF = 8;
const int BY_ROW = 0x7fffffff;
const int HEADROOM = 8;  // bits of a norm above 1: small entries keep their digits, none overflows

__device__ __forceinline__ int exponent_of(float square) {
  if (!(square >= FLOAT_MIN && square <= FLOAT_MAX)) return 0;
  int exponent;
  frexpf(sqrtf(square), &exponent);
  return exponent - HEADROOM;
}

extern "C" __global__ void scan_cast_f32(const float* __restrict__ X,
                                         const float* __restrict__ shift, long long n_rows,
                                         int n_features, int rows_per_block, int exponent,
                                         int with_sums, half_bits* __restrict__ cast,
                                         float* __restrict__ scales, float* __restrict__ norms,
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
      square += value * value;
      if (value != value) seen |= IS_NAN;
      if (fabsf(value) > FLOAT_MAX) seen |= IS_INFINITE;
    }
    square = warp_sum(square);
    const int power = exponent == BY_ROW ? exponent_of(square) : exponent;
    const float scale = ldexpf(1.0f, power), inverse = ldexpf(1.0f, -power);
    for (int f = lane; f < n_features; f += LANES) {
      const float value = x[f] - shift[f], scaled = value * inverse;
      const half_bits half = to_half(scaled);
      const float left = value - from_half(half) * scale;
      cast[row * n_features + f] = half;
      lost += left * left;
      if (fabsf(scaled) > HALF_MAX && fabsf(value) <= FLOAT_MAX) seen |= IS_BEYOND_HALF;
    }
    lost = warp_sum(lost);
    seen = warp_or(seen);
    if (lane == 0) {
      scales[row] = scale;
      norms[row] = sqrtf(square);
      residuals[row] = sqrtf(lost);
      flags[row] = (unsigned char)(square < FLOAT_MIN ? seen | IS_ZERO : seen);
    }
  }
  if (!with_sums) return;
  __syncthreads();  // the flags of all rows are there
  for (int f = threadIdx.x; f < n_features; f += blockDim.x) {
    float sum = 0;
    for (long long row = first; row < last; ++row) {
      if (flags[row] == 0) sum += X[row * n_features + f] - shift[f];
    }
    column_sums[blockIdx.x * (long long)n_features + f] = sum;
  }
}
