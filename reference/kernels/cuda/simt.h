// One source for two executions: nvcc compiles a kernel for the GPU, a C++ compiler for the emulator, which runs the same threads on the
// CPU. A kernel uses threadIdx, blockIdx, blockDim and gridDim as CUDA has them, and for all else that is the GPU's the functions here.
//
//   XM_KERNEL(256) void scale(const float* in, float* out, int64_t count) { ... }     at most 256 threads a block
//   XM_RESIDENT_KERNEL(256, 2) ...     so few registers that 2 such blocks share a multiprocessor
//   XM_API int xm_cuda_scale(...) { return launch(scale, {blocks, 1, 1}, 256, sizeof(Shared), stream, in, out, count); }
//
// Rules: collectives (shfl, ballot, mma, ldmatrix) are called by all 32 lanes of a warp together; block_sync by all threads of a block.
// The emulator stops at a collective that some lanes never reach, fills shared memory with NaN before a block, and copies what cp_async
// asked for only when it is waited for, where NaN is meanwhile: what would be undefined on a GPU fails in a test instead.
// Products of warpgroups are in warpgroup.h.
//
// launch_early lets a kernel start while the one before it in its stream still runs, which may write what it reads: every thread calls
// wait_for_kernel_before, and does nothing before that but prefetch. The kernel before is done then, and all that it wrote is seen by plain
// reads and copies; stream_16 and load_16 are for weights, which no kernel writes beside one that reads them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fragments.h"

#define XM_API extern "C" __attribute__((visibility("default")))

#ifdef __CUDACC__
#include "simt_device.h"
#define XM_UNROLL(times) _Pragma(XM_TEXT(unroll times))
#define XM_TEXT(words) #words
#else
#include "simt_host.h"
#define XM_UNROLL(times)
#endif

namespace xmsim {

constexpr int kWarp = 32;

// A block's shared memory as one structure: what launch got the size of.
template <class T>
XM_DEVICE T& shared() {
  return *reinterpret_cast<T*>(shared_bytes());
}

XM_DEVICE int lane() { return threadIdx.x % kWarp; }
XM_DEVICE int warp() { return threadIdx.x / kWarp; }

// The same as warp(), known to the compiler to be one number for all lanes: loops up to it then need no code for lanes that part ways.
XM_DEVICE int uniform_warp() { return shfl(warp(), 0); }

// Sum and largest of a value over the lanes whose numbers differ in the bits below `width`; every lane gets it.
template <class T>
XM_DEVICE T lanes_sum(T value, int width = kWarp) {
  for (int step = width / 2; step; step /= 2) value += shfl_xor(value, step);
  return value;
}

template <class T>
XM_DEVICE T lanes_max(T value, int width = kWarp) {
  for (int step = width / 2; step; step /= 2) {
    const T other = shfl_xor(value, step);
    value = other > value ? other : value;
  }
  return value;
}

// Prefetches some bytes by a warp, 32 with each lane.
XM_DEVICE void prefetch_by_lanes(const void* from, int bytes) {
  constexpr int kSector = 32;
  XM_UNROLL(1)
  for (int at = kSector * lane(); at < bytes; at += kSector * kWarp) prefetch(static_cast<const unsigned char*>(from) + at);
}

XM_DEVICE float float_of_bits(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } both = {bits};
  return both.f;
}

XM_DEVICE uint32_t bits_of_float(float value) {
  union {
    float f;
    uint32_t u;
  } both = {value};
  return both.u;
}

// bfloat16 as its bits; a pair lies in a word as in memory, the first of it low.
XM_DEVICE float bf16_low(uint32_t pair) { return float_of_bits(pair << 16); }
XM_DEVICE float bf16_high(uint32_t pair) { return float_of_bits(pair & 0xffff0000u); }

template <class T>
XM_BOTH T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace xmsim
