// AMX: 32 tokens x 32 outputs at a time. There is no way from a vector register to a tile, so expanded tiles pass through L1.
#include <algorithm>
#include <type_traits>

#include "linear_expand.h"
#include "linear_finish.h"
#include "linear_paths.h"
#include "linear_tokens.h"
#include "team.h"
#include "tiles.h"

namespace xmsim {
namespace {

constexpr int kPassTokens = 2 * kTileRegisterRows;

// Registers: sums of (first 16, second 16 tokens) x (left, right half of the block), the tokens, the weights.
enum Register { kFirstLeft, kFirstRight, kSecondLeft, kSecondRight, kFirst, kSecond, kLeft, kRight };

template <class E, int kSum, int kA, int kB, class Tiles>
void add_products(Tiles& tiles) {
  if constexpr (std::is_same_v<E, Bfloat16>)
    tiles.template add_bfloat16<kSum, kA, kB>();
  else
    tiles.template add_int8<kSum, kA, kB>();
}

template <class Tiles, class Cursor>
void expand(Cursor& cursor, int64_t tiles, uint32_t* words) {
#if XM_X86
  if constexpr (std::is_same_v<Tiles, NativeTiles>) return expand_avx512(cursor, tiles, words);
#endif
  expand_portable(cursor, tiles, words);
}

template <class Tiles, class E>
void pass(const LinearCall& call, int64_t block, int64_t token, const Tokens& tokens) {
  const PackedWeights& weights = call.weights;
  const int64_t k_tiles = weights.k_tiles<E>(), count = std::min<int64_t>(kPassTokens, call.tokens - token);
  const auto first = static_cast<uint8_t>(std::min<int64_t>(count, kTileRegisterRows)), second = static_cast<uint8_t>(count - first);
  constexpr uint8_t kAll = kTileRegisterRows;
  alignas(64) uint32_t place[2][2 * kTileWords];  // by turns: the next tiles are written while these are read
  alignas(64) typename E::Sum sums[kPassTokens * kBlockColumns];
  constexpr int64_t kSumsStride = kBlockColumns * sizeof(typename E::Sum);
  const int64_t stride = tokens.k_words * static_cast<int64_t>(sizeof(uint32_t));
  Tiles tiles({first, first, second, second, first, second, kAll, kAll});
  const auto add_pairs = [&](const auto& next_pair) {
    for (int64_t tile = 0; tile < k_tiles; ++tile) {
      const uint32_t* const pair = next_pair(tile);
      const uint32_t* const x = tokens.of_group(token) + tile * kRowWords;
      tiles.template load<kFirst>(x, stride);
      tiles.template load<kLeft>(pair, kTileRowBytes);
      tiles.template load<kRight>(pair + kTileWords, kTileRowBytes);
      add_products<E, kFirstLeft, kFirst, kLeft>(tiles);
      add_products<E, kFirstRight, kFirst, kRight>(tiles);
      if (second) {
        tiles.template load<kSecond>(x + kTileRegisterRows * tokens.k_words, stride);
        add_products<E, kSecondLeft, kSecond, kLeft>(tiles);
        add_products<E, kSecondRight, kSecond, kRight>(tiles);
      }
    }
  };
  if (weights.form != Form::tiles) {
    with_cursor<E>(weights, block, [&](auto cursor) {
      add_pairs([&](int64_t tile) { return expand<Tiles>(cursor, 2, place[tile & 1]), static_cast<const uint32_t*>(place[tile & 1]); });
    });
  } else {
    const auto* whole = static_cast<const uint32_t*>(weights.values) + block * k_tiles * 2 * kTileWords;
    add_pairs([&](int64_t tile) { return whole + tile * 2 * kTileWords; });
  }
  tiles.template store<kFirstLeft>(sums, kSumsStride);
  tiles.template store<kFirstRight>(sums + kTileColumns, kSumsStride);
  if (second) {
    tiles.template store<kSecondLeft>(sums + kTileRegisterRows * kBlockColumns, kSumsStride);
    tiles.template store<kSecondRight>(sums + kTileRegisterRows * kBlockColumns + kTileColumns, kSumsStride);
  }
  finish(call, block, token, count, sums, tokens.scales.get(), 0);
}

template <class Tiles, class E>
bool linear(const LinearCall& call) {
  Tokens tokens;
  if (!pack_tokens<E>(call, 1, 0, tokens)) return false;
  for_parts(call.weights.blocks(), call.threads, [&](int64_t block) {
    for (int64_t token = 0; token < call.tokens; token += kPassTokens) pass<Tiles, E>(call, block, token, tokens);
  });
  return true;
}

}  // namespace

#if XM_X86
template <class E>
bool linear_amx(const LinearCall& call) {
  return linear<NativeTiles, E>(call);
}
template bool linear_amx<Bfloat16>(const LinearCall&);
template bool linear_amx<Int8>(const LinearCall&);
#endif

template <class E>
bool linear_emulated_tiles(const LinearCall& call) {
  return linear<EmulatedTiles, E>(call);
}
template bool linear_emulated_tiles<Bfloat16>(const LinearCall&);
template bool linear_emulated_tiles<Int8>(const LinearCall&);

}  // namespace xmsim
