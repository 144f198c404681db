// Finish rows that a product of scaled copies has just written: undo the scales, norm, convert.
//
// shapes   product (n_rows, n_features) float32, C order: of rows first_row ... first_row + n_rows - 1
//          of all rows: scales (n_total,) float32: what their copies were divided by
//          column_scales (n_features,) float32: what the copies of the columns were divided by
//          out: out (n_total, n_features) float32 or float16, may be `product` itself where float32;
//          norms (n_total,) float32: of the rows before they are scaled to unit length
// unit     to_unit_length other than 0 divides by the norm; a row of norm 0 stays 0, and one
//          shorter than 1e-19, whose square vanishes, as it is
// tails    any n_rows, n_features >= 1
// bytes    reads 4 * n_rows * n_features (from L2 where the tile is small enough) and 4 * n_rows,
//          writes itemsize * n_rows * n_features + 4 * n_rows
// launch   grid-stride over rows, a warp for each; blocks of whole warps
#include "reduce.cuh"

__device__ __forceinline__ void store(float* out, float value) { *out = value; }
__device__ __forceinline__ void store(half_bits* out, float value) { *out = to_half(value); }

template <class T>
__device__ __forceinline__ void finish_rows(const float* product, long long first_row,
                                            const float* scales, const float* column_scales,
                                            long long n_rows, int n_features, int to_unit_length,
                                            T* out, float* norms) {
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  for (long long at = first; at < n_rows; at += gridDim.x * (long long)n_warps) {
    const long long row = first_row + at;
    const float* x = product + at * n_features;
    const float scale = scales[row];
    float square = 0;
    for (int f = lane; f < n_features; f += LANES) {
      const float value = x[f] * (scale * column_scales[f]);
      square += value * value;
    }
    const float norm = sqrtf(warp_sum(square));
    const float length = to_unit_length && norm > 0 ? 1 / norm : 1;
    for (int f = lane; f < n_features; f += LANES) {
      store(out + row * n_features + f, x[f] * (scale * column_scales[f]) * length);
    }
    if (lane == 0) norms[row] = norm;
  }
}

extern "C" __global__ void finish_rows_f32(const float* product, long long first_row,
                                           const float* __restrict__ scales,
                                           const float* __restrict__ column_scales,
                                           long long n_rows, int n_features, int to_unit_length,
                                           float* out, float* __restrict__ norms) {
  finish_rows(product, first_row, scales, column_scales, n_rows, n_features, to_unit_length, out, norms);
}

extern "C" __global__ void finish_rows_f16(const float* product, long long first_row,
                                           const float* __restrict__ scales,
                                           const float* __restrict__ column_scales,
                                           long long n_rows, int n_features, int to_unit_length,
                                           half_bits* out, float* __restrict__ norms) {
  finish_rows(product, first_row, scales, column_scales, n_rows, n_features, to_unit_length, out, norms);
}
