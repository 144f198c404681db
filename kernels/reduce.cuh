// What the 32 lanes of a warp know together. All lanes call these, and all get the same bits.
#pragma once
#include "portable.cuh"

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = LANES / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(ALL_LANES, value, step);
  }
  return value;
}

__device__ __forceinline__ int warp_or(int bits) {
  for (int step = LANES / 2; step > 0; step /= 2) {
    bits |= __shfl_xor_sync(ALL_LANES, bits, step);
  }
  return bits;
}

// The two largest scores seen, and where the largest was; of equal ones the lower index.
struct Top2 {
  float best;
  float second;
  int index;
};

__device__ __forceinline__ Top2 nothing_yet() {
  const Top2 top = {-FLOAT_MAX, -FLOAT_MAX, NO_INDEX};
  return top;
}

__device__ __forceinline__ Top2 larger(const Top2& a, const Top2& b) {
  const bool b_wins = b.best > a.best || (b.best == a.best && b.index < a.index);
  const Top2& won = b_wins ? b : a;
  const Top2& lost = b_wins ? a : b;
  const Top2 top = {won.best, fmaxf(won.second, lost.best), won.index};
  return top;
}

__device__ __forceinline__ Top2 warp_larger(Top2 top) {
  for (int step = LANES / 2; step > 0; step /= 2) {
    Top2 other;
    other.best = __shfl_xor_sync(ALL_LANES, top.best, step);
    other.second = __shfl_xor_sync(ALL_LANES, top.second, step);
    other.index = __shfl_xor_sync(ALL_LANES, top.index, step);
    top = larger(top, other);
  }
  return top;
}
