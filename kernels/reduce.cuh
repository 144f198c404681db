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

// Of the centers seen: the two largest upper bounds of scores, where the largest was, of equal ones
// the lower index, and the lower bound there.
struct Nearest {
  float upper;
  float second;
  float lower;
  int index;
};

__device__ __forceinline__ Nearest nothing_yet() {
  const Nearest nothing = {-FLOAT_MAX, -FLOAT_MAX, -FLOAT_MAX, NO_INDEX};
  return nothing;
}

__device__ __forceinline__ Nearest nearer(const Nearest& a, const Nearest& b) {
  const bool b_wins = b.upper > a.upper || (b.upper == a.upper && b.index < a.index);
  const Nearest& won = b_wins ? b : a;
  const Nearest& lost = b_wins ? a : b;
  const Nearest both = {won.upper, fmaxf(won.second, lost.upper), won.lower, won.index};
  return both;
}

__device__ __forceinline__ Nearest warp_nearest(Nearest found) {
  for (int step = LANES / 2; step > 0; step /= 2) {
    Nearest other;
    other.upper = __shfl_xor_sync(ALL_LANES, found.upper, step);
    other.second = __shfl_xor_sync(ALL_LANES, found.second, step);
    other.lower = __shfl_xor_sync(ALL_LANES, found.lower, step);
    other.index = __shfl_xor_sync(ALL_LANES, found.index, step);
    found = nearer(found, other);
  }
  return found;
}
