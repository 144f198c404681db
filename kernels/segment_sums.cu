// Sum the rows of each part of an order: one after the other, so the bits never change.
//
// shapes   X (n_rows, n_features) float32, float16 or float64, C order; order (n_ordered,) int32:
//          numbers of rows, those of a segment side by side; starts (n_parts + 1,) int64: where in
//          `order` each part begins
//          out: sums (n_parts, n_features) float64, zero for a part without rows
// use      parts of at most some hundred rows keep all processors at work; a second launch sums
//          their sums (float64, in order) to those of the segments
// tails    any n_parts, n_features >= 1; a part may be empty
// bytes    reads itemsize * n_ordered * n_features, writes 8 * n_parts * n_features
// launch   grid-stride over parts, a block for each; a thread owns columns
#include "portable.cuh"

template <class T>
__device__ __forceinline__ double as_double(T value) {
  return double(value);
}

template <>
__device__ __forceinline__ double as_double<half_bits>(half_bits bits) {
  return double(from_half(bits));
}

template <class T>
__device__ __forceinline__ void segment_sums(const T* X, const int* order, const long long* starts,
                                             int n_parts, int n_features, double* sums) {
  for (int part = blockIdx.x; part < n_parts; part += gridDim.x) {
    for (int f = threadIdx.x; f < n_features; f += blockDim.x) {
      double sum = 0;
      for (long long at = starts[part]; at < starts[part + 1]; ++at) {
        sum += as_double(X[order[at] * (long long)n_features + f]);
      }
      sums[part * (long long)n_features + f] = sum;
    }
  }
}

extern "C" __global__ void segment_sums_f32(const float* __restrict__ X,
                                            const int* __restrict__ order,
                                            const long long* __restrict__ starts, int n_parts,
                                            int n_features, double* __restrict__ sums) {
  segment_sums(X, order, starts, n_parts, n_features, sums);
}

extern "C" __global__ void segment_sums_f16(const half_bits* __restrict__ X,
                                            const int* __restrict__ order,
                                            const long long* __restrict__ starts, int n_parts,
                                            int n_features, double* __restrict__ sums) {
  segment_sums(X, order, starts, n_parts, n_features, sums);
}

extern "C" __global__ void segment_sums_f64(const double* __restrict__ X,
                                            const int* __restrict__ order,
                                            const long long* __restrict__ starts, int n_parts,
                                            int n_features, double* __restrict__ sums) {
  segment_sums(X, order, starts, n_parts, n_features, sums);
}
