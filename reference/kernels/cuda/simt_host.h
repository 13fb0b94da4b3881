// What a kernel needs of the GPU, on the CPU: the same functions as in simt_device.h, run by the threads of the emulator.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>

#define XM_DEVICE static inline
#define XM_MEMBER inline
#define XM_KERNEL(threads) static
#define XM_RESIDENT_KERNEL(threads, blocks) static

namespace xmsim {

using Stream = void*;

struct uint2 {
  uint32_t x, y;
};

struct uint4 {
  uint32_t x, y, z, w;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// The emulator: runs the threads of a block one after the other, each until it waits for others.
namespace emulator {

struct Place {
  dim3 thread, block, threads, blocks;
};

const Place& place();              // of the thread that runs
unsigned char* shared_memory();    // of its block
void wait_for_block();             // until every thread of the block that still runs waits here
void wait_for_warp();              // until every lane of the warp waits here; stops the launch if one never can
void wait_until(const std::function<bool()>& reached);  // what other threads of the block do
void give_way();                   // until the others got as far as they can; with the last thread first, if one of them waited for this one
unsigned char* lane_slot(int lane);  // 64 bytes of a lane, which the others of its warp see after wait_for_warp
void copy_later(void* to, const void* from, size_t bytes);  // of this thread, into its open group; no source: zeros
void close_copies();
void finish_copies(int groups);    // all but so many of the closed groups

// Products of a warpgroup run on their own and see the block's shared memory by way of copies that were shared.
void wait_for_group();                            // until every thread of the four warps waits here
uint32_t shared_address(const void* place);       // in the block's shared memory, as descriptors count
void share_copies();                              // those of this thread that it waited for
const unsigned char* bytes_of_products(uint32_t address);  // two bytes there; none: outside
void order_products();                            // registers that were written before are final
void product_later(float* sums, int count, bool adds, std::function<void(float*)> multiply);  // into this thread's open group
void close_products();
void finish_products(int groups);  // all but so many of the closed groups

constexpr int kSlotBytes = 64;

void wait_for_kernel_before();  // ends when no thread of the block gets further without

// 0, or 1 if threads waited for each other in vain, or one of an early launch ended without waiting for the kernel before; `reason` says.
const char* reason();
int run(dim3 blocks, int threads, size_t bytes_shared, const std::function<void()>& thread, bool early);

// What each lane brings, seen by all lanes: fill, then read others', and nobody goes on before all have read.
template <class T, class Read>
auto exchange(const T& mine, Read read) {
  static_assert(sizeof(T) <= kSlotBytes);
  std::memcpy(lane_slot(place().thread.x % 32), &mine, sizeof(T));
  wait_for_warp();
  const auto result = read([](int lane) {
    T other;
    std::memcpy(&other, lane_slot(lane), sizeof(T));
    return other;
  });
  wait_for_warp();
  return result;
}

}  // namespace emulator

#define threadIdx (::xmsim::emulator::place().thread)
#define blockIdx (::xmsim::emulator::place().block)
#define blockDim (::xmsim::emulator::place().threads)
#define gridDim (::xmsim::emulator::place().blocks)

XM_DEVICE unsigned char* shared_bytes() { return emulator::shared_memory(); }

template <class T>
XM_DEVICE T shfl(T value, int from) {
  return emulator::exchange(value, [&](auto of) { return of(from % 32); });
}

template <class T>
XM_DEVICE T shfl_xor(T value, int bits) {
  return emulator::exchange(value, [&](auto of) { return of(static_cast<int>(threadIdx.x % 32) ^ bits); });
}

template <class T>
XM_DEVICE T shfl_up(T value, int by) {
  const int own = threadIdx.x % 32;
  return emulator::exchange(value, [&](auto of) { return of(own < by ? own : own - by); });
}

XM_DEVICE int lanes_running_sum(int value) {
  const int own = threadIdx.x % 32;
  return emulator::exchange(value, [&](auto of) {
    int sum = 0;
    for (int lane = 0; lane <= own; ++lane) sum += of(lane);
    return sum;
  });
}

XM_DEVICE uint32_t ballot(bool vote) {
  return emulator::exchange(vote, [](auto of) {
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= static_cast<uint32_t>(of(lane)) << lane;
    return votes;
  });
}

XM_DEVICE void warp_sync() { emulator::wait_for_warp(); }
XM_DEVICE void block_sync() { emulator::wait_for_block(); }

struct PhaseBarrier {
  int16_t arrivals, missing;
  int32_t phase;
};

XM_DEVICE void phase_init(PhaseBarrier& barrier, int arrivals) {
  barrier = {static_cast<int16_t>(arrivals), static_cast<int16_t>(arrivals), 0};
}

XM_DEVICE void phase_arrive(PhaseBarrier& barrier) {
  if (--barrier.missing == 0) {
    barrier.missing = barrier.arrivals;
    barrier.phase = 1 - barrier.phase;
  }
  emulator::give_way();  // who arrives too early is overtaken
}

XM_DEVICE void phase_wait(PhaseBarrier& barrier, int phase) {
  const bool there = barrier.arrivals > 0;  // it is poison before phase_init: then the wait is in vain
  emulator::wait_until([&] { return there && barrier.phase == 1 - phase; });
}

XM_DEVICE int popcount(uint32_t word) { return __builtin_popcount(word); }
XM_DEVICE int popcount(uint64_t word) { return __builtin_popcountll(word); }
XM_DEVICE int lowest_bit(uint32_t word) { return __builtin_ffs(static_cast<int>(word)) - 1; }
XM_DEVICE int lowest_bit(uint64_t word) { return __builtin_ffsll(static_cast<long long>(word)) - 1; }

XM_DEVICE uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t places) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) chosen |= static_cast<uint32_t>(both >> 8 * (places >> 4 * i & 7) & 0xff) << 8 * i;
  return chosen;
}

XM_DEVICE float exp2_fast(float x) { return std::exp2(x); }
XM_DEVICE float larger(float a, float b) { return std::fmax(a, b); }
XM_DEVICE double exponential(double x) { return std::exp(x); }
XM_DEVICE double binary_logarithm(double x) { return std::log2(x); }

XM_DEVICE int dot4(uint32_t a, uint32_t b, int sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return sum;
}

XM_DEVICE uint32_t max_u16x2(uint32_t a, uint32_t b) {
  return (((a >> 16) > (b >> 16) ? a : b) & 0xffff0000u) | (((a & 0xffffu) > (b & 0xffffu) ? a : b) & 0xffffu);
}

XM_DEVICE uint32_t min_u16x2(uint32_t a, uint32_t b) {
  return (((a >> 16) < (b >> 16) ? a : b) & 0xffff0000u) | (((a & 0xffffu) < (b & 0xffffu) ? a : b) & 0xffffu);
}

XM_DEVICE uint32_t add_min_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return min_u16x2(((a & 0xffff0000u) + (b & 0xffff0000u)) | ((a + b) & 0xffffu), c);
}

XM_DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
XM_DEVICE double fused(double a, double b, double c) { return std::fma(a, b, c); }
XM_DEVICE float times(float a, float b) { return a * b; }  // compiled with -ffp-contract=off
XM_DEVICE double times(double a, double b) { return a * b; }

XM_DEVICE uint16_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

XM_DEVICE uint32_t bf16_pair(float low, float high) { return static_cast<uint32_t>(bf16_bits(high)) << 16 | bf16_bits(low); }

XM_DEVICE float half_value(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

XM_DEVICE uint16_t half_bits(float value) {
  const _Float16 rounded = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &rounded, 2);
  return bits;
}

XM_DEVICE uint32_t shared_place(const void* place) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(place) - shared_bytes());
}

XM_DEVICE uint32_t shared_16(uint32_t place) {
  uint16_t x;
  std::memcpy(&x, shared_bytes() + place, 2);
  return x;
}

XM_DEVICE uint32_t anew(uint32_t x) { return x; }

XM_DEVICE uint4 stream_16(const void* from) {
  uint4 x;
  std::memcpy(&x, from, 16);
  return x;
}

XM_DEVICE uint32_t load_16(const uint16_t* from) { return *from; }

XM_DEVICE void cp_async_16(void* to, const void* from, bool valid) { emulator::copy_later(to, valid ? from : nullptr, 16); }
XM_DEVICE void cp_async_8(void* to, const void* from, bool valid) { emulator::copy_later(to, valid ? from : nullptr, 8); }
XM_DEVICE void cp_async_16_where(bool wanted, void* to, const void* from, bool valid) {
  if (wanted) cp_async_16(to, from, valid);
}
XM_DEVICE void cp_async_commit() { emulator::close_copies(); }

template <int groups>
XM_DEVICE void cp_async_wait() {
  emulator::finish_copies(groups);
}

XM_DEVICE void ldmatrix_of(uint32_t (&words)[4], const void* row, bool transposed) {
  const int own = threadIdx.x % 32;
  struct Words {
    uint32_t of[4];
  };
  const Words found = emulator::exchange(row, [&](auto of) {
    Words result;
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int r = transposed ? own % 4 * 2 + i : own / 4, c = transposed ? own / 4 : own % 4 * 2 + i;
        std::memcpy(&pair[i], static_cast<const unsigned char*>(of(8 * matrix + r)) + 2 * c, 2);
      }
      result.of[matrix] = static_cast<uint32_t>(pair[1]) << 16 | pair[0];
    }
    return result;
  });
  for (int matrix = 0; matrix < 4; ++matrix) words[matrix] = found.of[matrix];
}

XM_DEVICE void ldmatrix_4(uint32_t (&words)[4], const void* row) { ldmatrix_of(words, row, false); }
XM_DEVICE void ldmatrix_4_transposed(uint32_t (&words)[4], const void* row) { ldmatrix_of(words, row, true); }

// sums += A B by the definition; `value(word, i)` is number i of a register.
template <class Sum, class Value>
XM_DEVICE void mma_of(Sum (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int numbers, Value value) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const int own = threadIdx.x % 32;
  struct Sums {
    Sum of[4];
  } result;
  std::memcpy(result.of, sums, sizeof result.of);
  result = emulator::exchange(mine, [&](auto of) {
    for (int lane = 0; lane < 32; ++lane) {  // each lane's numbers of A, where this lane has a sum in their row
      const Operands rows = of(lane);
      for (int r = 0; r < 4; ++r) {
        for (int i = 0; i < 4; ++i) {
          if (a_row(lane, r) != sum_row(own, i)) continue;
          for (int n = 0; n < numbers; ++n) {
            const int inner = a_column(lane, r, numbers) + n, column = sum_column(own, i);
            const int holder = column * 4 + inner % (4 * numbers) / numbers;
            result.of[i] += value(rows.a[r], n) * value(of(holder).b[inner / (4 * numbers)], n);
          }
        }
      }
    }
    return result;
  });
  std::memcpy(sums, result.of, sizeof result.of);
}

XM_DEVICE void mma_bf16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_of(sums, a, b, 2, [](uint32_t word, int i) {
    const uint32_t bits = i ? word & 0xffff0000u : word << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
  });
}

XM_DEVICE void mma_half(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_of(sums, a, b, 2, [](uint32_t word, int i) { return half_value(static_cast<uint16_t>(word >> 16 * i)); });
}

XM_DEVICE void mma_int8(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_of(sums, a, b, 4, [](uint32_t word, int i) { return static_cast<int32_t>(static_cast<int8_t>(word >> 8 * i)); });
}

XM_DEVICE void wait_for_kernel_before() { emulator::wait_for_kernel_before(); }
XM_DEVICE void let_next_start() {}

XM_DEVICE void prefetch(const void* place) {
  static_cast<void>(*static_cast<const volatile unsigned char*>(place));  // outside of what is allocated a sanitizer says so
}

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t bytes_shared, Stream, Arguments... arguments) {
  return emulator::run(blocks, threads, bytes_shared, [&] { kernel(arguments...); }, false);
}

template <class... Parameters, class... Arguments>
int launch_early(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t bytes_shared, Stream, Arguments... arguments) {
  return emulator::run(blocks, threads, bytes_shared, [&] { kernel(arguments...); }, true);
}

}  // namespace xmsim
