// What differs between NVRTC, nvcc and the CPU emulator. No other file asks which compiler runs.
#pragma once

#ifdef CUDA_CPU  // the emulator of tests/kernels, included before this

typedef unsigned short half_bits;

inline half_bits to_half(float value) {
  const _Float16 half = _Float16(value);
  half_bits bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline float from_half(half_bits bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof bits);
  return float(half);
}

#else

typedef unsigned short half_bits;  // without cuda_fp16.h, which NVRTC may not find

__device__ __forceinline__ half_bits to_half(float value) {  // to nearest, ties to even
  half_bits bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ float from_half(half_bits bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

#endif

[[maybe_unused]] const unsigned ALL_LANES = 0xffffffffu;
[[maybe_unused]] const int LANES = 32;
[[maybe_unused]] const float FLOAT_MAX = 3.402823466e38f;
[[maybe_unused]] const float FLOAT_MIN = 1.175494351e-38f;  // the least that is no denormal
[[maybe_unused]] const float HALF_MAX = 65504.0f;
[[maybe_unused]] const int NO_INDEX = 0x7fffffff;
