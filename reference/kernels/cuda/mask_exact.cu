// X:M, N:M and Sanger on exact scores. Every rounding is that of the CPU's vector kernels: products, exponentials and sums are made in the
// same order, so that a mask has the same bits on both. A thread has a row and adds up its own scores.
#include "mask_select.h"

namespace xmsim {
namespace {

constexpr int kMostChannels = 256;

struct ExactShared {
  alignas(16) float scores[kRows * kTurnedFours];
  alignas(16) float keys[kTileKeys * kMostChannels];  // as many of the channels as there are; behind all else, so that less may be asked for
};

// e to the power of x <= 0 by the polynomial of cpu/mask_rows.h, to the last bit.
XM_DEVICE float cpu_exponential(float given) {
  const float x = fmaxf(given, -87.0f);
  const float shifted = times(x, 1.44269504088896341f) + (kRounderFloat + 127);  // its low bits are the exponent of 2^n
  const float n = shifted - (kRounderFloat + 127);
  const float rest = (x - times(n, 0.693359375f)) - times(n, -2.12194440e-4f);
  float power = 1.98756915e-4f;
  power = times(power, rest) + 1.39819995e-3f;
  power = times(power, rest) + 8.33345205e-3f;
  power = times(power, rest) + 4.16657962e-2f;
  power = times(power, rest) + 1.66666657e-1f;
  power = times(power, rest) + 5.00000012e-1f;
  power = (times(times(power, rest), rest) + rest) + 1.0f;
  return times(power, float_of_bits(bits_of_float(shifted) << 23));
}

// Exponentials of a block of which the row sees the first `seen`, in sixteen lanes that are then folded.
XM_DEVICE float cpu_sum(const ScoreRow& row, int column, int seen, float top) {
  Sixteen lanes;
  XM_UNROLL(16)
  for (int i = 0; i < kSixteen; ++i) lanes.of[i] = 0;
  for (int first = 0; first < seen; first += kSixteen) {
    const Sixteen part = sixteen_at(row, column + first);
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) lanes.of[i] += cpu_exponential(part.of[i] - top);
  }
  XM_UNROLL()
  for (int width = kSixteen / 2; width; width /= 2) {
    XM_UNROLL(8)
    for (int i = 0; i < kSixteen / 2; ++i)
      if (i < width) lanes.of[i] += lanes.of[i + width];
  }
  return lanes.of[0];
}

// The scores of a thread's row on a tile, into its row of shared memory.
XM_DEVICE void score_row_of(const FloatScores& from, int64_t head, int64_t query, int64_t tile, const float* keys, const ScoreRow& to) {
  const int dim = static_cast<int>(from.dim);
  const float* q = from.q + (head * from.queries + (query < from.queries ? query : 0)) * dim;
  const float factor = from.factor[head];
  for (int first = 0; first < kTileKeys; first += kSixteen) {
    Sixteen sums;
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) sums.of[i] = 0;
    for (int channel = 0; channel < dim; channel += 4) {
      const uint4 own = *reinterpret_cast<const uint4*>(q + channel);
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) {
        const uint4 key = *reinterpret_cast<const uint4*>(keys + (first + i) * dim + channel);  // the same for all lanes
        sums.of[i] = fused(float_of_bits(own.x), float_of_bits(key.x), sums.of[i]);
        sums.of[i] = fused(float_of_bits(own.y), float_of_bits(key.y), sums.of[i]);
        sums.of[i] = fused(float_of_bits(own.z), float_of_bits(key.z), sums.of[i]);
        sums.of[i] = fused(float_of_bits(own.w), float_of_bits(key.w), sums.of[i]);
      }
    }
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) {
      float score = times(sums.of[i], factor);
      if (from.slopes) score += times(from.slopes[head], static_cast<float>(tile * kTileKeys + first + i));
      score_at(to, first + i) = score;
    }
  }
}

XM_DEVICE void copy_keys(const FloatScores& from, int64_t kv_head, int64_t tile, float* to) {
  const int dim = static_cast<int>(from.dim), pieces = dim / 4;
  const int64_t first = tile * kTileKeys;
  for (int piece = threadIdx.x; piece < kTileKeys * pieces; piece += kMaskThreads) {
    const bool there = first + piece / pieces < from.keys;
    cp_async_16(to + piece * 4, from.k + (kv_head * from.keys + (there ? first : 0)) * dim + (there ? piece * 4 : 0), there);
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// Up to three walks: the row's top, then the sum of its exponentials (X:M: sums and keys of its blocks), then the pairs above a threshold.
XM_RESIDENT_KERNEL(kMaskThreads, 2) void keep_exact(FloatScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<ExactShared>();
  const Rows rows = rows_of_head();
  const int64_t head = rows.first_head, query = rows.first_query + static_cast<int64_t>(threadIdx.x);
  const int64_t kv_head = head / (from.heads / from.kv_heads), row_words = ceil_div<int64_t>(from.keys, kTileKeys);
  const KeyRange allowed = own_keys(from, query);
  const bool is_nm = rule.kind == MaskKind::nm, is_sanger = rule.kind == MaskKind::sanger;
  const int size = is_sanger ? kTileKeys : static_cast<int>(rule.block), blocks_per_tile = kTileKeys / size;
  const int64_t padded = static_cast<int64_t>(gridDim.x) * kRows, seen_keys = allowed.end - allowed.first;
  const ScoreRow scores = score_row(block.scores, threadIdx.x);
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  const auto room_of_block = [&](int64_t tile, int part) { return ((head * row_words + tile) * blocks_per_tile + part) * padded + query; };
  const auto room_of_tile = [&](int64_t tile) { return (head * row_words + tile) * padded + query; };
  uint64_t* words = out.words + (head * from.queries + query) * row_words;
  float top = -kInfinity, least = kInfinity;
  double row_mass = 0, limit = 0;
  int blocks_seen = 0;
  int32_t kept = 0;

  for (int pass = is_nm ? 1 : 0; pass < (is_sanger ? 3 : 2); ++pass) {
    if (pass == 2) limit = rule.high * (least < top ? row_mass : static_cast<double>(seen_keys));
    for (int64_t tile = walk.first; tile < walk.first + walk.count; ++tile) {
      block_sync();  // all have read the keys before
      copy_keys(from, kv_head, tile, block.keys);
      block_sync();
      score_row_of(from, head, query, tile, block.keys, scores);
      hide_keys(scores, tile, allowed);
      uint64_t high = 0, low = 0;
      for (int part = 0; part < blocks_per_tile; ++part) {
        const int seen = seen_of(allowed, tile * kTileKeys + part * size, size);
        if (!seen) {
          if (pass == 1 && !is_nm && !is_sanger) out.mass[room_of_block(tile, part)] = -1;
          continue;
        }
        if (pass == 0) {
          for (int i = part * size; i < part * size + seen; ++i) {
            top = fmaxf(top, score_at(scores, i));
            least = fminf(least, score_at(scores, i));
          }
        } else if (pass == 1) {
          if (!is_nm) {
            const float sum = least < top ? cpu_sum(scores, part * size, seen, top) : static_cast<float>(seen);
            row_mass += sum;
            ++blocks_seen;
            if (!is_sanger) out.mass[room_of_block(tile, part)] = sum;
          }
          if (!is_sanger) {
            const Candidates found = candidates(block_of(scores, part * size, size), static_cast<int>(rule.kept_high), static_cast<int>(rule.kept_low));
            high |= found.high << part * size;
            low |= found.low << part * size;
          }
        } else {
          const float cut = static_cast<float>(limit);
          for (int i = 0; i < seen; ++i) {
            const bool keeps = least < top ? cpu_exponential(score_at(scores, i) - top) >= cut : 1.0 > limit;
            high |= static_cast<uint64_t>(keeps) << i;
          }
        }
      }
      if (pass == 0 || query >= from.queries) continue;
      words[tile] = high;
      if (!is_nm && !is_sanger) out.low_words[room_of_tile(tile)] = low;
    }
  }

  if (query >= from.queries) return;
  for (int64_t tile = 0; tile < row_words; ++tile)
    if (tile < walk.first || tile >= walk.first + walk.count) words[tile] = 0;
  const ClassLimits limits = limits_of(rule, row_mass, counted_blocks(rule, from.keys, seen_keys), blocks_seen == 1);
  bool ignored = false;  // what lies near a threshold of exact scores is a matter of their own rounding
  for (int64_t tile = walk.first; tile < walk.first + walk.count; ++tile) {
    uint64_t word = words[tile];
    for (int part = 0; !is_nm && !is_sanger && part < blocks_per_tile; ++part) {
      const float mass = out.mass[room_of_block(tile, part)];
      const BlockClass found = mass < 0 ? BlockClass::high : class_of(limits, mass, ignored);
      if (found == BlockClass::high) continue;
      const uint64_t own = (size < 64 ? (1ull << size) - 1 : ~0ull) << part * size;
      word = (word & ~own) | (found == BlockClass::low ? out.low_words[room_of_tile(tile)] & own : 0);
    }
    words[tile] = word;
    kept += popcount(word);
  }
  out.kept[head * from.queries + query] = kept;
  out.doubtful[head * from.queries + query] = 0;
}

}  // namespace
}  // namespace xmsim

// Fills words and kept by X:M, N:M (blocks of 16, 32 or 64 keys, of which at most 16 are kept) or Sanger's rule; no row is doubtful. Without a
// window: the CPU's sums of a row begin at the first key that it sees.
XM_API int xm_cuda_mask_exact(const xmsim::FloatScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, void* stream) {
  using namespace xmsim;
  const size_t bytes = sizeof(ExactShared) - sizeof(float) * kTileKeys * static_cast<size_t>(kMostChannels - from->dim);
  return launch(keep_exact, blocks_of_rows(*from), kMaskThreads, bytes, stream, *from, *rule, *out);
}
