// Which elements of a matrix are not zero, as 64-bit words; minus zero is zero.
#include "isa.h"
#include "team.h"

namespace xmsim {
namespace {

constexpr int64_t kRowsPerPart = 16;

// The bits that a number other than zero has one of: all but the sign.
template <class Bits>
constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;

template <class Bits>
uint64_t word_portable(const Bits* elements, int64_t count) {
  uint64_t word = 0;
  for (int64_t i = 0; i < count; ++i) word |= static_cast<uint64_t>((elements[i] & kMagnitude<Bits>) != 0) << i;
  return word;
}

template <class Bits>
void row_portable(const Bits* elements, int64_t columns, uint64_t* words) {
  for (int64_t first = 0; first < columns; first += 64)
    words[first / 64] = word_portable(elements + first, columns - first < 64 ? columns - first : 64);
}

#if XM_X86
XM_AVX512 XM_INLINE uint64_t full_word(const uint32_t* elements) {
  const __m512i magnitude = _mm512_set1_epi32(kMagnitude<uint32_t>);
  uint64_t word = 0;
  for (int part = 0; part < 4; ++part)
    word |= static_cast<uint64_t>(_mm512_test_epi32_mask(_mm512_loadu_si512(elements + 16 * part), magnitude)) << 16 * part;
  return word;
}

XM_AVX512 XM_INLINE uint64_t full_word(const uint16_t* elements) {
  const __m512i magnitude = _mm512_set1_epi16(kMagnitude<uint16_t>);
  const uint64_t low = _mm512_test_epi16_mask(_mm512_loadu_si512(elements), magnitude);
  return low | static_cast<uint64_t>(_mm512_test_epi16_mask(_mm512_loadu_si512(elements + 32), magnitude)) << 32;
}

template <class Bits>
XM_AVX512 void row_avx512(const Bits* elements, int64_t columns, uint64_t* words) {
  const int64_t full = columns / 64;
  for (int64_t word = 0; word < full; ++word) words[word] = full_word(elements + 64 * word);
  if (columns % 64) words[full] = word_portable(elements + 64 * full, columns % 64);
}
#endif

template <class Bits>
void nonzero_words(const Bits* matrix, int64_t rows, int64_t columns, uint64_t* words, int threads) {
#if XM_X86
  const auto row = isa() >= Isa::avx512 ? row_avx512<Bits> : row_portable<Bits>;
#else
  const auto row = row_portable<Bits>;
#endif
  const int64_t row_words = (columns + 63) / 64;
  for_parts((rows + kRowsPerPart - 1) / kRowsPerPart, threads, [&](int64_t part) {
    const int64_t end = (part + 1) * kRowsPerPart < rows ? (part + 1) * kRowsPerPart : rows;
    for (int64_t r = part * kRowsPerPart; r < end; ++r) row(matrix + r * columns, columns, words + r * row_words);
  });
}

}  // namespace
}  // namespace xmsim

// Bit j % 64 of words[row][j / 64] says whether element j of the row is not zero; words are [rows, ceil(columns / 64)].
XM_API void xm_nonzero_words_32(const uint32_t* matrix, int64_t rows, int64_t columns, uint64_t* words, int threads) {
  xmsim::nonzero_words(matrix, rows, columns, words, threads);
}

XM_API void xm_nonzero_words_16(const uint16_t* matrix, int64_t rows, int64_t columns, uint64_t* words, int threads) {
  xmsim::nonzero_words(matrix, rows, columns, words, threads);
}
