// What a kernel needs of the GPU, on the GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define XM_DEVICE static __device__ __forceinline__
#define XM_MEMBER __device__ __forceinline__
#define XM_KERNEL(threads) static __global__ __launch_bounds__(threads)
#define XM_RESIDENT_KERNEL(threads, blocks) static __global__ __launch_bounds__(threads, blocks)

namespace xmsim {

using Stream = void*;

static __device__ __forceinline__ unsigned char* shared_bytes() {
  extern __shared__ uint4 xm_shared[];
  return reinterpret_cast<unsigned char*>(xm_shared);
}

template <class T>
XM_DEVICE T shfl(T value, int from) {
  return __shfl_sync(0xffffffffu, value, from);
}

template <class T>
XM_DEVICE T shfl_xor(T value, int bits) {
  return __shfl_xor_sync(0xffffffffu, value, bits);
}

template <class T>
XM_DEVICE T shfl_up(T value, int by) {
  return __shfl_up_sync(0xffffffffu, value, by);
}

// The sum of a value over the lanes up to this one.
XM_DEVICE int lanes_running_sum(int value) {
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    asm volatile("{ .reg .pred p; .reg .s32 other; shfl.sync.up.b32 other|p, %0, %1, 0, 0xffffffff; @p add.s32 %0, %0, other; }"
                 : "+r"(value)
                 : "r"(by));
  }
  return value;
}

XM_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
XM_DEVICE void warp_sync() { __syncwarp(); }
XM_DEVICE void block_sync() { __syncthreads(); }

// A barrier in shared memory that counts arrivals and can be waited for later: its phases are numbered 0, 1, 0, 1 and so on.
using PhaseBarrier = uint64_t;

// One thread makes it, with the number of arrivals that end a phase; a barrier of the block follows.
XM_DEVICE void phase_init(PhaseBarrier& barrier, int arrivals) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(place), "r"(arrivals) : "memory");
}

XM_DEVICE void phase_arrive(PhaseBarrier& barrier) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(place) : "memory");
}

// Until the phase of this number has ended; the caller is at most one phase behind. Before the first phase, 0, lies one that has ended, 1.
XM_DEVICE void phase_wait(PhaseBarrier& barrier, int phase) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  uint32_t ended;
  do {
    asm volatile(
        "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\nselp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(place), "r"(phase)
        : "memory");
  } while (!ended);
}

XM_DEVICE int popcount(uint32_t word) { return __popc(word); }
XM_DEVICE int popcount(uint64_t word) { return __popcll(word); }
XM_DEVICE int lowest_bit(uint32_t word) { return __ffs(word) - 1; }  // -1: none is set
XM_DEVICE int lowest_bit(uint64_t word) { return __ffsll(static_cast<long long>(word)) - 1; }

// The bytes of a and, from 4 on, b at the four places that the lowest hexadecimal digits of `places` name, 0 to 7 each.
XM_DEVICE uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t places) {
  uint32_t chosen;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(chosen) : "r"(a), "r"(b), "r"(places));
  return chosen;
}

XM_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

XM_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
XM_DEVICE double exponential(double x) { return exp(x); }
XM_DEVICE double binary_logarithm(double x) { return log2(x); }

// sum + the products of four signed bytes
XM_DEVICE int dot4(uint32_t a, uint32_t b, int sum) { return __dp4a(static_cast<int>(a), static_cast<int>(b), sum); }

// The larger (smaller) ones of two pairs of unsigned 16-bit numbers.
XM_DEVICE uint32_t max_u16x2(uint32_t a, uint32_t b) { return __vmaxu2(a, b); }
XM_DEVICE uint32_t min_u16x2(uint32_t a, uint32_t b) { return __vminu2(a, b); }

// The smaller ones of c and the sums of a and b, each without its carry.
XM_DEVICE uint32_t add_min_u16x2(uint32_t a, uint32_t b, uint32_t c) { return __viaddmin_u16x2(a, b, c); }

XM_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
XM_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// A product that is rounded before anything is added to it.
XM_DEVICE float times(float a, float b) { return __fmul_rn(a, b); }
XM_DEVICE double times(double a, double b) { return __dmul_rn(a, b); }

// {low, high} rounded to bfloat16, ties to even.
XM_DEVICE uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

XM_DEVICE float half_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
XM_DEVICE uint16_t half_bits(float value) { return __half_as_ushort(__float2half_rn(value)); }

// A place in shared memory as one word, and 16 bits from there: arithmetic on such places takes half of the instructions that pointers do.
XM_DEVICE uint32_t shared_place(const void* place) { return static_cast<uint32_t>(__cvta_generic_to_shared(place)); }

XM_DEVICE uint32_t shared_16(uint32_t place) {
  uint16_t x;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(place) : "memory");
  return x;
}

// The same number, unknown to the compiler: what is read there is read again, not kept in registers meanwhile.
XM_DEVICE uint32_t anew(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Reads of what no thread writes during the kernel; past the first cache, as every byte is used once.
XM_DEVICE uint4 stream_16(const void* from) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
  return x;
}

// 16 bits of what no thread writes during the kernel; before any later such read.
XM_DEVICE uint32_t load_16(const uint16_t* from) {
  uint32_t x;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=r"(x) : "l"(from));
  return x;
}

// 16 bytes from global to shared memory, both aligned to 16; zeros where not `valid`. There after cp_async_wait and a barrier.
XM_DEVICE void cp_async_16(void* to, const void* from, bool valid) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes) : "memory");
}

// 8 bytes, aligned to 8, likewise.
XM_DEVICE void cp_async_8(void* to, const void* from, bool valid) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(place), "l"(from), "r"(valid ? 8 : 0) : "memory");
}

// The same of 16 bytes for the threads that want it; places of several such copies are computed once, not anew for each as under an if.
XM_DEVICE void cp_async_16_where(bool wanted, void* to, const void* from, bool valid) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile(
      "{ .reg .pred p; setp.ne.s32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2; }" ::"r"(place), "l"(from), "r"(valid ? 16 : 0),
      "r"(static_cast<int>(wanted))
      : "memory");
}

XM_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `groups` of the committed groups of this thread are under way.
template <int groups>
XM_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Four 8 × 8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8 and gets of each matrix m the two
// numbers in row l / 4, columns 2 (l % 4) and one on, as words[m]; transposed: in column l / 4.
XM_DEVICE void ldmatrix_4(uint32_t (&words)[4], const void* row) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(place)
               : "memory");
}

XM_DEVICE void ldmatrix_4_transposed(uint32_t (&words)[4], const void* row) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(place)
               : "memory");
}

// sums += A B, A [16, 16] and B [16, 8] of bfloat16; who holds which element is in fragments.h.
XM_DEVICE void mma_bf16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of float16.
XM_DEVICE void mma_half(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// sums += A B, A [16, 32] and B [32, 8] of int8.
XM_DEVICE void mma_int8(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Until the kernel before an early launch is done and what it wrote is seen. Below compute capability 9.0 it is done anyway.
XM_DEVICE void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start, if it is launched early, when all blocks have called this; it waits for this one to end.
XM_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Brings what lies around a place to the second-level cache, which knows of all writes: nothing that is read later is old.
XM_DEVICE void prefetch(const void* place) { asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(place))); }

// A launch; 0, or the code of CUDA's error. No blocks: nothing is launched.
template <class... Parameters, class... Arguments>
int launch_with(const cudaLaunchAttribute* attributes, int count, void (*kernel)(Parameters...), dim3 blocks, int threads, size_t bytes_shared,
                Stream stream, Arguments... arguments) {
  if (!blocks.x || !blocks.y || !blocks.z) return 0;
  if (bytes_shared > 48 << 10) {  // more has to be asked for
    const cudaError_t refused =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes_shared));
    if (refused != cudaSuccess) {
      cudaGetLastError();  // forgotten, so that the next launch is not blamed
      return static_cast<int>(refused);
    }
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes_shared;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = const_cast<cudaLaunchAttribute*>(attributes);
  config.numAttrs = count;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (status != cudaSuccess) cudaGetLastError();  // forgotten likewise
  return static_cast<int>(status);
}

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t bytes_shared, Stream stream, Arguments... arguments) {
  return launch_with(nullptr, 0, kernel, blocks, threads, bytes_shared, stream, arguments...);
}

// The same of a kernel that may start while the one before it in the stream still runs.
template <class... Parameters, class... Arguments>
int launch_early(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t bytes_shared, Stream stream, Arguments... arguments) {
  int device = 0, capability = 0;
  cudaError_t asked = cudaGetDevice(&device);
  if (asked == cudaSuccess) asked = cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device);
  if (asked != cudaSuccess) return static_cast<int>(asked);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  // 9 alone: newer GPUs run what was translated from PTX for 8.0, which does not wait
  return launch_with(&early, capability == 9 ? 1 : 0, kernel, blocks, threads, bytes_shared, stream, arguments...);
}

}  // namespace xmsim
