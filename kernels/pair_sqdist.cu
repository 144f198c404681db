// Squared distance of each pair of a row and a center, by differences in float64.
//
// shapes   X (n_rows, n_features) float32, C order; centers (n_centers, n_features) float32 or float64; rows,
//          labels (n_pairs,) int32: the pairs; a label less than 0 is no center
//          out: sqdist (n_pairs,) float64; 0 without a center
// order    a sum runs over lanes first and columns second: its bits depend on nothing else
// tails    any n_pairs, n_features >= 1
// bytes    reads 4 * n_pairs * n_features (and centers, from L2) and 8 * n_pairs, writes 8 * n_pairs
// launch   grid-stride over pairs, a warp for each; blocks of whole warps
#include "reduce.cuh"

template <class T>
__device__ __forceinline__ void pair_sqdist(const float* X, const T* centers, const int* rows,
                                            const int* labels, long long n_pairs, int n_features,
                                            double* sqdist) {
  const int lane = threadIdx.x % LANES, n_warps = blockDim.x / LANES;
  const long long first = blockIdx.x * (long long)n_warps + threadIdx.x / LANES;
  for (long long pair = first; pair < n_pairs; pair += gridDim.x * (long long)n_warps) {
    double sum = 0;
    if (labels[pair] >= 0) {
      const float* x = X + rows[pair] * (long long)n_features;
      const T* c = centers + labels[pair] * (long long)n_features;
      for (int f = lane; f < n_features; f += LANES) {
        const double gap = double(x[f]) - double(c[f]);
        sum += gap * gap;
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) sqdist[pair] = sum;
  }
}

extern "C" __global__ void pair_sqdist_f32(const float* __restrict__ X,
                                           const float* __restrict__ centers,
                                           const int* __restrict__ rows,
                                           const int* __restrict__ labels, long long n_pairs,
                                           int n_features, double* __restrict__ sqdist) {
  pair_sqdist(X, centers, rows, labels, n_pairs, n_features, sqdist);
}

extern "C" __global__ void pair_sqdist_f64(const float* __restrict__ X,
                                           const double* __restrict__ centers,
                                           const int* __restrict__ rows,
                                           const int* __restrict__ labels, long long n_pairs,
                                           int n_features, double* __restrict__ sqdist) {
  pair_sqdist(X, centers, rows, labels, n_pairs, n_features, sqdist);
}
