// How fast this host reads memory: the ceiling that every decode kernel is held against.
#include "isa.h"
#include "team.h"

namespace xmsim {
namespace {

constexpr int64_t kChunkWords = 1 << 15;  // 256 KiB a part

uint64_t read_portable(const uint64_t* words, int64_t count) {
  uint64_t folded = 0;
  for (int64_t i = 0; i < count; ++i) folded ^= words[i];
  return folded;
}

#if XM_X86
XM_AVX512 uint64_t read_avx512(const uint64_t* words, int64_t count) {
  __m512i folded[8];
  for (auto& lane : folded) lane = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= count; i += 64)
    for (int lane = 0; lane < 8; ++lane) folded[lane] = _mm512_xor_si512(folded[lane], _mm512_loadu_si512(words + i + 8 * lane));
  uint64_t rest = read_portable(words + i, count - i), lanes[8];
  for (const auto& lane : folded) {
    _mm512_storeu_si512(lanes, lane);
    for (uint64_t word : lanes) rest ^= word;
  }
  return rest;
}
#endif

}  // namespace
}  // namespace xmsim

// The exclusive or of `count` 64-bit words, each read once.
XM_API uint64_t xm_read(const uint64_t* words, int64_t count, int threads) {
  using namespace xmsim;
  std::atomic<uint64_t> folded{0};
#if XM_X86
  const auto read = isa() >= Isa::avx512 ? read_avx512 : read_portable;
#else
  const auto read = read_portable;
#endif
  for_parts((count + kChunkWords - 1) / kChunkWords, threads, [&](int64_t part) {
    const int64_t first = part * kChunkWords, rest = count - first;
    folded.fetch_xor(read(words + first, rest < kChunkWords ? rest : kChunkWords), std::memory_order_relaxed);
  });
  return folded.load();
}
