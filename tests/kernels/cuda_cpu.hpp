// Runs CUDA kernels on the CPU, for tests: one block after the other, each thread a fiber of one
// thread of the system. Runs are deterministic. Barriers and shuffles are real rendezvous, and a
// block whose threads do not all arrive is reported instead of hanging.
//
// It knows nothing of the order in which a GPU's memory shows what was written, nor of lanes that
// have left their warp: that is for compute-sanitizer, on a GPU.
#pragma once
#undef _FORTIFY_SOURCE  // it forbids jumps between stacks
#include <setjmp.h>
#include <ucontext.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define CUDA_CPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static

struct dim3 {
  unsigned x;
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_cpu {

const std::size_t STACK_BYTES = 64 * 1024;
const unsigned WARP = 32;
enum class At { ready, block_barrier, warp_barrier, done };
enum Error { none = 0, divergent = 1 };

struct Fiber {
  ucontext_t context;  // where it begins; it goes on from `point`, which needs no system call
  jmp_buf point;
  bool begun = false;
  std::unique_ptr<char[]> stack;
  At at;
};

inline std::vector<Fiber> fibers;
inline std::vector<std::uint64_t> lane_slots;
inline jmp_buf scheduler;
inline const std::function<void()>* body;
inline unsigned current;
inline Error error;

inline void wait(At at) {
  fibers[current].at = at;
  if (_setjmp(fibers[current].point) == 0) _longjmp(scheduler, 1);
}

inline void entry() {
  for (;;) {  // block after block
    (*body)();
    wait(At::done);
  }
}

[[gnu::noinline]] inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.point, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

// Let a group go on when all of it has arrived at the same kind of barrier.
inline bool release(unsigned begin, unsigned end, At kind) {
  unsigned live = 0, arrived = 0;
  for (unsigned i = begin; i < end; ++i) {
    live += fibers[i].at != At::done;
    arrived += fibers[i].at == kind;
  }
  if (arrived == 0 || arrived != live) return false;
  if (kind == At::block_barrier && live != end - begin) error = divergent;  // some have left
  for (unsigned i = begin; i < end; ++i) {
    if (fibers[i].at == kind) fibers[i].at = At::ready;
  }
  return true;
}

inline unsigned end_of(unsigned warp, unsigned n_threads) {
  return warp + WARP < n_threads ? warp + WARP : n_threads;
}

inline void run_warp(unsigned begin, unsigned end, bool reverse, bool* ran) {
  for (unsigned i = 0; i < end - begin; ++i) {
    current = reverse ? end - 1 - i : begin + i;
    if (fibers[current].at != At::ready) continue;
    threadIdx = dim3{current};
    resume(fibers[current]);
    *ran = true;
  }
}

inline void run_block(unsigned n_threads, bool reverse, bool greedy) {
  for (Fiber& fiber : fibers) fiber.at = At::ready;
  const unsigned n_warps = (n_threads + WARP - 1) / WARP;
  for (;;) {
    bool ran = false, released = false, done = true;
    for (unsigned turn = 0; turn < n_warps; ++turn) {
      const unsigned begin = (reverse ? n_warps - 1 - turn : turn) * WARP;
      const unsigned end = end_of(begin, n_threads);
      do {
        run_warp(begin, end, reverse, &ran);
      } while (greedy && release(begin, end, At::warp_barrier));
    }
    for (const Fiber& fiber : fibers) done &= fiber.at == At::done;
    if (done) return;
    for (unsigned begin = 0; begin < n_threads; begin += WARP) {
      released |= release(begin, end_of(begin, n_threads), At::warp_barrier);
    }
    released |= release(0, n_threads, At::block_barrier);
    if (!ran && !released) error = divergent;  // some wait for others that wait for them
    if (error) return;
  }
}

// Run a grid. Bit 0 of `schedule` reverses the order of warps and lanes; bit 1 lets a warp run on
// through its shuffles until it meets a barrier of the block. A correct kernel gives the same under
// all four.
inline int run(unsigned n_blocks, unsigned n_threads, int schedule,
               const std::function<void()>& kernel) {
  gridDim = dim3{n_blocks};
  blockDim = dim3{n_threads};
  body = &kernel;
  error = none;
#ifdef __SSE__
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // as -ftz=true: denormals are zero
#endif
  fibers = std::vector<Fiber>(n_threads);
  for (Fiber& fiber : fibers) {
    fiber.stack.reset(new char[STACK_BYTES]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
  }
  lane_slots.assign(n_threads, 0);
  for (unsigned block = 0; block < n_blocks && !error; ++block) {
    blockIdx = dim3{block};
    run_block(n_threads, schedule & 1, schedule & 2);
  }
#ifdef __SSE__
  _mm_setcsr(before);
#endif
  return error;
}

template <class T>
T shuffle(T value, unsigned source_lane) {
  static_assert(sizeof(T) <= 8, "at most 64 bits");
  const unsigned me = current, from = me / WARP * WARP + source_lane;
  std::memcpy(&lane_slots[me], &value, sizeof(T));
  wait(At::warp_barrier);
  if (source_lane < WARP && from < lane_slots.size()) {
    std::memcpy(&value, &lane_slots[from], sizeof(T));
  }
  wait(At::warp_barrier);
  return value;
}

}  // namespace cuda_cpu

inline void __syncthreads() { cuda_cpu::wait(cuda_cpu::At::block_barrier); }

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return cuda_cpu::shuffle(value, (cuda_cpu::current % cuda_cpu::WARP) ^ mask);
}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return cuda_cpu::shuffle(value, unsigned(source) % cuda_cpu::WARP);
}

template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by) {  // the first lanes keep what they have
  const unsigned lane = cuda_cpu::current % cuda_cpu::WARP;
  return cuda_cpu::shuffle(value, lane >= by ? lane - by : lane);
}

inline unsigned __ballot_sync(unsigned, int vote) {
  using namespace cuda_cpu;
  const unsigned first = current / WARP * WARP;
  lane_slots[current] = vote != 0;
  wait(At::warp_barrier);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < WARP && first + lane < lane_slots.size(); ++lane) {
    votes |= unsigned(lane_slots[first + lane]) << lane;
  }
  wait(At::warp_barrier);
  return votes;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
