// What one unit of the GPU gives, one kernel each: the constants of docs/make_cuda_predictions.py. Every kernel writes what it computed, so that a
// test can tell that it did the work.
#include "simt.h"

namespace xmsim {

constexpr int kThreads = 256, kChains = 8;  // of each thread, so that a result is not waited for

// One instruction after the other on eight numbers of a thread; out: [threads] their sum or xor.
XM_KERNEL(kThreads) void population_counts(const uint32_t* in, uint32_t* out, int rounds) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t x[kChains], all = 0;
  for (int c = 0; c < kChains; ++c) x[c] = in[own] + c;
  for (int round = 0; round < rounds; ++round) {
    XM_UNROLL(8)
    for (int c = 0; c < kChains; ++c) x[c] = static_cast<uint32_t>(popcount(x[c])) ^ in[c];
  }
  for (int c = 0; c < kChains; ++c) all ^= x[c];
  out[own] = all;
}

XM_KERNEL(kThreads) void exponentials(const float* in, float* out, int rounds) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float x[kChains], all = 0;
  for (int c = 0; c < kChains; ++c) x[c] = in[own] + 0.125f * static_cast<float>(c);
  for (int round = 0; round < rounds; ++round) {
    XM_UNROLL(8)
    for (int c = 0; c < kChains; ++c) x[c] = exp2_fast(-x[c]);
  }
  for (int c = 0; c < kChains; ++c) all += x[c];
  out[own] = all;
}

// Two comparisons of pairs of 16 bits a step.
XM_KERNEL(kThreads) void comparisons(const uint32_t* in, uint32_t* out, int rounds) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t x[kChains], least[kChains], most[kChains], all = 0;
  for (int c = 0; c < kChains; ++c) x[c] = in[own] + c, least[c] = in[c], most[c] = in[kChains + c];
  for (int round = 0; round < rounds; ++round) {
    XM_UNROLL(8)
    for (int c = 0; c < kChains; ++c) x[c] = max_u16x2(min_u16x2(x[c], most[(c + 1) % kChains]), least[c]);
  }
  for (int c = 0; c < kChains; ++c) all ^= x[c];
  out[own] = all;
}

// Products of fragments that stay in registers, eight sums a warp; a [warps of a block, 32, 4] and b [8, 32, 2] are fragments' words.
XM_DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bf16(sums, a, b); }
XM_DEVICE void multiply(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_int8(sums, a, b); }

template <class Sum>
XM_KERNEL(kThreads) void products(const uint32_t* a, const uint32_t* b, Sum* out, int rounds) {
  uint32_t rows[4], columns[kChains][2];
  Sum sums[kChains][4] = {};
  for (int r = 0; r < 4; ++r) rows[r] = a[threadIdx.x * 4 + r];
  for (int c = 0; c < kChains; ++c) {
    for (int r = 0; r < 2; ++r) columns[c][r] = b[(c * kWarp + lane()) * 2 + r];
  }
  for (int round = 0; round < rounds; ++round) {
    XM_UNROLL(8)
    for (int c = 0; c < kChains; ++c) multiply(sums[c], rows, columns[c]);
  }
  Sum* own = out + (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kChains * 4;
  for (int c = 0; c < kChains; ++c) {
    for (int i = 0; i < 4; ++i) own[c * 4 + i] = sums[c][i];
  }
}

XM_DEVICE uint32_t folded(uint4 x) { return x.x ^ x.y ^ x.z ^ x.w; }

// All words of 16 bytes, so many times; past the first cache, four reads of a thread under way. out: [threads] an xor.
XM_KERNEL(kThreads) void read_words(const uint4* words, int64_t count, uint32_t* out, int rounds) {
  const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads, own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t seen = 0;
  for (int round = 0; round < rounds; ++round) {
    int64_t i = own;
    for (; i + 3 * all < count; i += 4 * all) {
      uint4 four[4];
      XM_UNROLL(4)
      for (int n = 0; n < 4; ++n) four[n] = stream_16(words + i + n * all);
      XM_UNROLL(4)
      for (int n = 0; n < 4; ++n) seen ^= folded(four[n]);
    }
    for (; i < count; i += all) seen ^= folded(stream_16(words + i));
  }
  out[own] = seen;
}

constexpr int kRowWords = 16, kHalfWarp = 16, kRowsAtOnce = 8;  // rows of 256 bytes: half of a warp reads one

// Rows by a list; eight of each half warp under way. out: [threads] an xor.
XM_KERNEL(kThreads) void gather_rows(const uint4* rows, const int* list, int count, uint32_t* out) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int part = threadIdx.x % kHalfWarp, walkers = gridDim.x * (kThreads / kHalfWarp);
  uint32_t seen = 0;
  for (int first = static_cast<int>(own / kHalfWarp) * kRowsAtOnce; first < count; first += walkers * kRowsAtOnce) {
    uint4 found[kRowsAtOnce];
    XM_UNROLL(8)
    for (int n = 0; n < kRowsAtOnce; ++n) {
      const int at = first + n < count ? first + n : count - 1;
      found[n] = stream_16(rows + static_cast<int64_t>(list[at]) * kRowWords + part);
    }
    XM_UNROLL(8)
    for (int n = 0; n < kRowsAtOnce; ++n) seen ^= first + n < count ? folded(found[n]) : 0;
  }
  out[own] = seen;
}

struct GatherShared {
  alignas(16) uint4 words[2][kRowsAtOnce][kThreads];  // of each thread its own
};

// The same by copies to shared memory, the next eight rows under way.
XM_KERNEL(kThreads) void gather_rows_async(const uint4* rows, const int* list, int count, uint32_t* out) {
  GatherShared& block = shared<GatherShared>();
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int part = threadIdx.x % kHalfWarp, step = gridDim.x * (kThreads / kHalfWarp) * kRowsAtOnce;
  const auto fetch = [&](int first, int stage) {
    for (int n = 0; n < kRowsAtOnce; ++n) {
      const bool there = first + n < count;
      cp_async_16(&block.words[stage][n][threadIdx.x], rows + static_cast<int64_t>(list[there ? first + n : 0]) * kRowWords + part, there);
    }
    cp_async_commit();
  };
  uint32_t seen = 0;
  const int begin = static_cast<int>(own / kHalfWarp) * kRowsAtOnce;
  fetch(begin, 0);
  for (int first = begin, stage = 0; first < count; first += step, stage = 1 - stage) {
    fetch(first + step, 1 - stage);
    cp_async_wait<1>();
    for (int n = 0; n < kRowsAtOnce; ++n) seen ^= folded(block.words[stage][n][threadIdx.x]);
  }
  cp_async_wait<0>();
  out[own] = seen;
}

// One thread reads where the next word lies: each read waits for the one before. out: where it is at last.
XM_KERNEL(32) void follow(const uint4* next, int steps, uint32_t* out) {
  uint32_t at = 0;
  for (int step = 0; step < steps; ++step) at = stream_16(next + at).x;
  if (threadIdx.x == 0) *out = at;
}

XM_KERNEL(32) void nothing(uint32_t* out) {
  if (threadIdx.x == 0 && blockIdx.x == 0) *out = 1;
}

}  // namespace xmsim

using namespace xmsim;

XM_API int xm_cuda_rate_population_counts(const uint32_t* in, uint32_t* out, int blocks, int rounds, void* stream) {
  return launch(population_counts, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, in, out, rounds);
}
XM_API int xm_cuda_rate_exponentials(const float* in, float* out, int blocks, int rounds, void* stream) {
  return launch(exponentials, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, in, out, rounds);
}
XM_API int xm_cuda_rate_comparisons(const uint32_t* in, uint32_t* out, int blocks, int rounds, void* stream) {
  return launch(comparisons, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, in, out, rounds);
}
XM_API int xm_cuda_rate_bfloat16_products(const uint32_t* a, const uint32_t* b, float* out, int blocks, int rounds, void* stream) {
  return launch(products<float>, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, a, b, out, rounds);
}
XM_API int xm_cuda_rate_int8_products(const uint32_t* a, const uint32_t* b, int32_t* out, int blocks, int rounds, void* stream) {
  return launch(products<int32_t>, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, a, b, out, rounds);
}
XM_API int xm_cuda_rate_read(const void* words, int64_t count, uint32_t* out, int blocks, int rounds, void* stream) {
  return launch(read_words, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, static_cast<const uint4*>(words), count, out, rounds);
}
XM_API int xm_cuda_rate_gather(const void* rows, const int* list, int count, uint32_t* out, int blocks, void* stream) {
  return launch(gather_rows, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, static_cast<const uint4*>(rows), list, count, out);
}
XM_API int xm_cuda_rate_gather_async(const void* rows, const int* list, int count, uint32_t* out, int blocks, void* stream) {
  return launch(gather_rows_async, {static_cast<unsigned>(blocks), 1, 1}, kThreads, sizeof(GatherShared), stream,
                static_cast<const uint4*>(rows), list, count, out);
}
XM_API int xm_cuda_rate_follow(const void* next, int steps, uint32_t* out, void* stream) {
  return launch(follow, {1, 1, 1}, 32, 0, stream, static_cast<const uint4*>(next), steps, out);
}
XM_API int xm_cuda_rate_nothing(uint32_t* out, void* stream) { return launch(nothing, {1, 1, 1}, 32, 0, stream, out); }
