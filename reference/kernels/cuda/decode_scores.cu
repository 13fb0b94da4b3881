// Scores of the newest token on all keys of a cache, from the few-bit copy of the keys: exact products on tensor cores, keys on the wide side
// and the query heads that share them on the narrow one; sums of exponentials in float64, so that a block's class is the reference's.
#include "decode_predict.h"
#include "linear_elements.h"
#include "low_bit.h"

namespace xmsim {
namespace {

constexpr int kMostPartBlocks = 128;

struct Scoring {
  const uint16_t* q;      // [sequences, heads, dim]
  const uint32_t* codes;  // [sequences, kv_heads, code_blocks, words_per_key, 64]: of 4 bits eight channels a word, of 8 bits four
  uint64_t* words;        // [sequences, lists, room_blocks]: those beyond a sequence's keys are filled with zeros
  int* doubtful;          // [sequences, lists], filled with zeros
  int half, dim, group, code_blocks, lists;
  float limit, per_unit;  // of the queries' codes
};

template <int kDim>
struct ScoringShared {
  float values[kMostHeads][kDim];
  alignas(4) int8_t queries[kMostHeads][kDim];
  int offsets[kMostHeads];
  float tops[kMostHeads][kMostPartBlocks];
  double sums[kMostHeads][kMostPartBlocks];
};

// No list is doubtful yet, and no key is kept that is not there.
XM_DEVICE void clear_lists(const Scoring& job, const Sequences& sequences, int room_blocks) {
  const int threads = gridDim.x * gridDim.y * kPredictThreads, lists = sequences.count * job.lists;
  const int first = (blockIdx.y * gridDim.x + blockIdx.x) * kPredictThreads + threadIdx.x;
  for (int list = first; list < lists; list += threads) job.doubtful[list] = 0;
  for (int word = first; sequences.lengths && word < lists * room_blocks; word += threads) {
    if (word % room_blocks * kTileKeys >= keys_of(sequences, word / room_blocks / job.lists)) job.words[word] = 0;
  }
}

// Codes of the queries of a KV head; zeros in channels and heads that are not there.
template <int kDim>
XM_DEVICE void make_queries(const Scoring& job, int64_t first_head, int sharing, bool is_shifted, ScoringShared<kDim>& block) {
  for (int i = threadIdx.x; i < kMostHeads * kDim; i += kPredictThreads) {
    const int head = i / kDim, channel = i % kDim;
    const bool there = head < sharing && channel < job.dim;
    const uint16_t bits = there ? job.q[(first_head + head) * job.dim + channel] : uint16_t{0};
    block.values[head][channel] = job.half ? value_of<Half>(bits) : value_of<Bf16>(bits);
  }
  block_sync();
  for (int i = threadIdx.x; i < kMostHeads * kDim; i += kPredictThreads) {
    const int head = i / kDim, channel = i % kDim;
    const bool kept = channel < job.dim && is_kept(block.values[head], channel, job.group);
    block.queries[head][channel] = kept ? static_cast<int8_t>(code_of(block.values[head][channel], job.limit, job.per_unit)) : int8_t{0};
  }
  block_sync();
  int sum = 0;
  for (int channel = lane(); channel < kDim; channel += kWarp) sum += block.queries[warp()][channel];
  sum = lanes_sum(sum);
  if (lane() == 0) block.offsets[warp()] = is_shifted ? 8 * sum : 0;  // codes of 4 bits are the integers plus 8
  block_sync();
}

XM_DEVICE uint32_t word_of(const uint4& words, int i) { return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w; }

// Neighbouring products, two or four, at once.
template <int kCount>
XM_DEVICE void store_products(int16_t* to, const int32_t (&products)[kCount]) {
  uint64_t packed = 0;
  XM_UNROLL(4)
  for (int i = 0; i < kCount; ++i) packed |= static_cast<uint64_t>(static_cast<uint16_t>(products[i])) << 16 * i;
  if constexpr (kCount == 2) *reinterpret_cast<uint32_t*>(to) = static_cast<uint32_t>(packed);
  if constexpr (kCount == 4) *reinterpret_cast<uint64_t*>(to) = packed;
}

template <int kCount>
XM_DEVICE void store_products(int32_t* to, const int32_t (&products)[kCount]) {
  XM_UNROLL(4)
  for (int i = 0; i < kCount; i += 2) {
    const uint64_t low = static_cast<uint32_t>(products[i]), high = static_cast<uint32_t>(products[i + 1]);
    *reinterpret_cast<uint64_t*>(to + i) = high << 32 | low;
  }
}

// Products with 64 keys of kSpan query heads (2, 4 or 8, repeated in the eight columns of a product). Tile m of 16 keys: rows r and r + 8 are
// keys 32 (m / 2) + 4r + 2 (m % 2) and the next, so that a lane reads the codes of four neighbours at once.
template <int kDim, int kCodeBits>
XM_DEVICE void multiply_block(const uint32_t* codes, const uint32_t (&queries)[kDim / 32][2], int32_t (&sums)[4][4]) {
  constexpr int kWords = kCodeBits / 4;  // of a key, for 8 of its channels
  const uint32_t* own = codes + lane() % 4 * kTileKeys + lane() / 4 * 4;
  XM_UNROLL(4)
  for (int step = 0; step < kDim / 32; ++step) {
    uint4 words[kWords][2];
    XM_UNROLL(2)
    for (int w = 0; w < kWords; ++w) {
      XM_UNROLL(2)
      for (int half = 0; half < 2; ++half) words[w][half] = stream_16(own + (step * kWords + w) * 4 * kTileKeys + 32 * half);
    }
    XM_UNROLL(4)
    for (int tile = 0; tile < 4; ++tile) {
      uint32_t keys[4];
      XM_UNROLL(2)
      for (int row = 0; row < 2; ++row) {
        const uint32_t word = word_of(words[0][tile / 2], tile % 2 * 2 + row);
        keys[row] = kCodeBits == 4 ? word & 0x0f0f0f0fu : word;
        keys[row + 2] = kCodeBits == 4 ? word >> 4 & 0x0f0f0f0fu : word_of(words[kWords - 1][tile / 2], tile % 2 * 2 + row);
      }
      mma_int8(sums[tile], keys, queries[step]);
    }
  }
}

// The sum that a lane takes of one of its tiles: of all four where eight heads fill the columns, else every lane of the same heads another's.
template <int kSpan>
XM_DEVICE int32_t own_sum(const int32_t (&sums)[4][4], int tile, int i) {
  const int column = lane() % 4;
  if (kSpan == 8) return sums[tile][i];
  if (kSpan == 4) return column & 2 ? sums[tile + 2][i] : sums[tile][i];
  return column & 2 ? (column & 1 ? sums[3][i] : sums[2][i]) : (column & 1 ? sums[1][i] : sums[0][i]);
}

// A block of threads takes a part of a KV head's blocks of keys, a warp a block.
template <int kDim, int kCodeBits, int kSpan, class Product>
XM_RESIDENT_KERNEL(kPredictThreads, 2) void score_keys(Scoring job, Sequences sequences, Predicted<Product> all) {
  constexpr int kTiles = kSpan / 2, kGroup = kTiles < 2 ? 2 : 4;  // of a lane: tiles, and neighbouring keys
  constexpr int kWordsPerKey = kDim * kCodeBits / 32;
  auto& block = shared<ScoringShared<kDim>>();
  let_next_start();
  clear_lists(job, sequences, all.room_blocks);
  const Share share = share_at(sequences, blockIdx.x);
  if (share.sequence < 0) return;
  const Predicted<Product> out = of_sequence(all, share);
  const int kv_head = blockIdx.y, sharing = out.heads / out.kv_heads;
  const Part part = part_of(blocks_of(out), share.own, share.count);
  make_queries(job, static_cast<int64_t>(share.sequence) * out.heads + kv_head * sharing, sharing, kCodeBits == 4, block);
  const int64_t code_blocks = (static_cast<int64_t>(share.sequence) * out.kv_heads + kv_head) * job.code_blocks;
  uint32_t queries[kDim / 32][2];
  const int8_t* query = block.queries[b_column(lane()) % kSpan];
  XM_UNROLL(4)
  for (int step = 0; step < kDim / 32; ++step) {
    XM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {  // the channels that the words of the keys hold
      const int four = kCodeBits == 4 ? (4 * step + lane() % 4) * 2 + r : 8 * step + 4 * r + lane() % 4;
      queries[step][r] = *reinterpret_cast<const uint32_t*>(query + 4 * four);
    }
  }
  const int own_head = lane() % (kSpan / 2) * 2;  // and the next
  const int start[2] = {kRounderBits - block.offsets[own_head], kRounderBits - block.offsets[own_head + 1]};
  const float slopes[2] = {own_head < sharing ? slope_of(out, kv_head * sharing + own_head) : 0.0f,
                           own_head + 1 < sharing ? slope_of(out, kv_head * sharing + own_head + 1) : 0.0f};
  for (int own = part.first + warp(); own < part.last; own += kPredictWarps) {
    int32_t sums[4][4];
    XM_UNROLL(4)
    for (int tile = 0; tile < 4; ++tile) {
      XM_UNROLL(4)
      for (int i = 0; i < 4; ++i) sums[tile][i] = start[i % 2];
    }
    const uint32_t* codes = job.codes + (code_blocks + own) * kWordsPerKey * kTileKeys;
    multiply_block<kDim, kCodeBits>(codes, queries, sums);
    const int left = out.keys - own * kTileKeys;
    float tops[2];
    double both[2];
    XM_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      const bool there = own_head + h < sharing;
      const int head = kv_head * sharing + own_head + h;
      float scores[kTiles][2];
      tops[h] = -kInfinity;
      XM_UNROLL(2)
      for (int first = 0; first < kTiles; first += kGroup / 2) {
        const int first_tile = kSpan == 8 ? first : kSpan == 4 ? lane() % 4 / 2 * 2 : lane() % 4;
        const int first_key = first_tile / 2 * 32 + lane() / 4 * 4 + first_tile % 2 * 2;
        int32_t products[kGroup];
        XM_UNROLL(4)
        for (int i = 0; i < kGroup; ++i) {
          const int32_t sum = own_sum<kSpan>(sums, first + i / 2, i % 2 * 2 + h);
          products[i] = sum - kRounderBits;
          const int key = first_key + i;
          float score = score_of(out, float_of_bits(static_cast<uint32_t>(sum)) - kRounderFloat, slopes[h], own * kTileKeys + key);
          if (key >= left) score = -kInfinity;
          scores[first + i / 2][i % 2] = score;
          tops[h] = fmaxf(tops[h], score);
        }
        if (there) store_products(out.products + (static_cast<int64_t>(head) * out.room_blocks + own) * kTileKeys + first_key, products);
      }
      XM_UNROLL(5)
      for (int step = kWarp / 2; step >= kSpan / 2; step /= 2) tops[h] = fmaxf(tops[h], shfl_xor(tops[h], step));
      both[h] = 0;
      XM_UNROLL(4)
      for (int tile = 0; tile < kTiles; ++tile) {
        XM_UNROLL(2)
        for (int row = 0; row < 2; ++row) both[h] += power_of_e(scores[tile][row], tops[h]);
      }
      XM_UNROLL(5)
      for (int step = kWarp / 2; step >= kSpan / 2; step /= 2) both[h] += shfl_xor(both[h], step);
    }
    XM_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      if (lane() >= kSpan / 2 || own_head + h >= sharing) continue;
      const int64_t place = (static_cast<int64_t>(kv_head) * out.room_blocks + own) * sharing + own_head + h;
      block.tops[own_head + h][own - part.first] = out.tops[place] = tops[h];
      block.sums[own_head + h][own - part.first] = out.sums[place] = both[h];
    }
    warp_sync();  // products of the next block are of all lanes together
  }
  block_sync();
  if (warp() >= sharing) return;
  float top = -kInfinity;  // of a head in this part
  for (int i = lane(); i < part.last - part.first; i += kWarp) top = fmaxf(top, block.tops[warp()][i]);
  top = lanes_max(top);
  double sum = 0;
  for (int i = lane(); i < part.last - part.first; i += kWarp) sum += block.sums[warp()][i] * power_of_e(block.tops[warp()][i], top);
  sum = lanes_sum(sum);
  if (lane() != 0) return;
  const int64_t place = part_place(out, kv_head, share.own, warp());
  out.part_tops[place] = top;
  out.part_sums[place] = sum;
}

template <int kDim, int kCodeBits, int kSpan, class Product>
int launch_span(const Scoring& job, const Sequences& sequences, const Predicted<Product>& out, int parts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(parts), static_cast<unsigned>(out.kv_heads), 1};
  const auto kernel = score_keys<kDim, kCodeBits, kSpan, Product>;
  return launch(kernel, blocks, kPredictThreads, sizeof(ScoringShared<kDim>), stream, job, sequences, out);
}

template <int kDim, int kCodeBits, class Product>
int launch_heads(const Scoring& job, const Sequences& sequences, const Predicted<Product>& out, int parts, void* stream) {
  const int sharing = out.heads / out.kv_heads;
  if (sharing <= 2) return launch_span<kDim, kCodeBits, 2>(job, sequences, out, parts, stream);
  if (sharing <= 4) return launch_span<kDim, kCodeBits, 4>(job, sequences, out, parts, stream);
  return launch_span<kDim, kCodeBits, 8>(job, sequences, out, parts, stream);
}

template <int kCodeBits, class Product>
int launch_scores(const Scoring& job, const Sequences& sequences, const Predicted<Product>& out, int channels, int parts, void* stream) {
  if (channels == 64) return launch_heads<64, kCodeBits>(job, sequences, out, parts, stream);
  return launch_heads<128, kCodeBits>(job, sequences, out, parts, stream);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// channels is 64 or 128, dim at most that; at most 8 heads to a KV head; parts of at most 128 blocks, none empty. Products are int16 of codes
// of 4 bits, else int32.
XM_API int xm_cuda_score_keys(const uint16_t* q, const uint32_t* codes, const float* slopes, void* products, float* tops, double* sums,
                              float* part_tops, double* part_sums, uint64_t* words, int* doubtful, int half, int dim, int group,
                              int code_blocks, int lists, int heads, int kv_heads, int channels, int code_bits, float limit, float per_unit,
                              float factor, const int* lengths, int count, int room, int shares_wanted, int least, int most, int parts,
                              void* stream) {
  const Scoring job = {q, codes, words, doubtful, half, dim, group, code_blocks, lists, limit, per_unit};
  const Sequences sequences = {lengths, count, room, shares_wanted, least, most};
  const int blocks = ceil_div(room, kTileKeys);
  if (code_bits == 4) {
    const Predicted<int16_t> out = {static_cast<int16_t*>(products), tops, part_tops, sums, part_sums, slopes, factor, heads, kv_heads, blocks};
    return launch_scores<4>(job, sequences, out, channels, parts, stream);
  }
  const Predicted<int32_t> out = {static_cast<int32_t*>(products), tops, part_tops, sums, part_sums, slopes, factor, heads, kv_heads, blocks};
  return launch_scores<8>(job, sequences, out, channels, parts, stream);
}
