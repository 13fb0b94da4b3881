// Attention of one query a head on the keys of a cache that are kept. A warp gathers rows of 16 keys and their values while it works on 16
// others, and multiplies them by all query heads that share them on tensor cores. The words of a sequence are cut into shares, whose results
// are merged in their order.
#include "attention_kept.h"
#include "attention_rows.h"
#include "attention_softmax.h"
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStep = 16;   // keys that are multiplied at once
constexpr int kStages = 2;  // one of them under way: 8 KB a warp, of 12 warps on an H200's multiprocessor
constexpr int kMergeThreads = 256;
static_assert(kStep <= kCarried + 1);

struct Decode {
  const uint16_t *q, *k, *v;   // [sequences, heads, d]; keys and values of each KV head of each sequence, [keys, d]
  const uint64_t* words;       // [sequences, masks, key_words]: kept keys; none: all
  const float* slopes;         // [heads], or none: ALiBi
  float *tops, *sums, *parts;  // [shares, heads] twice, [shares, heads, d]
  int64_t head_rows, sequence_rows;  // keys from one KV head to the next, and from one sequence to the next
  int heads, kv_heads, masks, key_words;
  float scale;
};

template <int kDim>
struct alignas(16) WarpShared {
  union {
    struct {
      uint16_t keys[kStages][kStep * kDim], values[kStages][kStep * kDim];
    } rows;
    float out[kSharing][kDim + 4];  // afterwards; a quarter of a warp writes to eight banks of each of four heads
  };
  uint32_t entries[kStages][kStep];  // of the keys of a stage; 0: there is none
  uint32_t listed[kCarried + kWindowWords * kWordKeys];
  float tops[kSharing], sums[kSharing];
};

template <int kDim>
struct DecodeShared {
  WarpShared<kDim> warps[kWarps];
};

XM_DEVICE float finite_or_zero(float x) { return x == -INFINITY ? 0.0f : x; }

// Starts to copy the next kept keys and their values into a stage; false if there are none.
template <int kDim>
XM_DEVICE bool fetch_step(const KeyMask& mask, const uint16_t* keys, const uint16_t* values, WarpShared<kDim>& own, int stage,
                          Listed& listed) {
  constexpr int kChunks = kDim / 8;
  while (listed.count < kStep && listed.word * kWordKeys < mask.keys) list_keys(mask, own.listed, listed);
  const int taken = listed.count < kStep ? listed.count : kStep;
  if (taken) {
    if (lane() < kStep) own.entries[stage][lane()] = lane() < taken ? own.listed[listed.from + lane()] : 0;
    warp_sync();
    const int chunk = lane() % kChunks;
    XM_UNROLL(8)
    for (int first = 0; first < kStep; first += kWarp / kChunks) {
      const int row = first + lane() / kChunks, to = place<kDim>(row, chunk);
      const uint32_t entry = own.entries[stage][row];
      const int64_t from = static_cast<int64_t>(entry_key(entry)) * kDim + 8 * chunk;
      cp_async_16(own.rows.keys[stage] + to, keys + from, entry != 0);  // zeros where there is no key: no NaN comes of its value
      cp_async_16(own.rows.values[stage] + to, values + from, entry != 0);
    }
    listed.from += taken;
    listed.count -= taken;
  }
  cp_async_commit();
  return taken > 0;
}

// Softmax and sums of eight query heads, as far as keys were seen. Products are of heads × keys and then of channels × heads: a lane gets
// scores of head lane / 4 as sums of the first exactly where the second wants their probabilities.
template <int kDim>
struct HeadState {
  static constexpr int kSteps = kDim / 16;  // of mma over the channels
  uint32_t queries[kSteps][4];
  float scale, slope, most_bias;   // of the scores, in units of log 2; biases count from the largest: those that matter keep their digits
  float top = -INFINITY, sum = 0;  // of head lane / 4; the sum of this lane's keys
  float out[kSteps][4] = {};       // channel 16 step + lane / 4 + 8 (e / 2) of head 2 (lane % 4) + e % 2
};

template <int kDim>
XM_DEVICE void load_queries(const Decode& job, const Share& share, int first_head, int heads, HeadState<kDim>& state) {
  const int head = lane() / 4;
  const bool served = head < heads;
  const uint16_t* queries = job.q + (static_cast<int64_t>(share.sequence) * job.heads + first_head + head) * kDim;
  XM_UNROLL(8)
  for (int step = 0; step < HeadState<kDim>::kSteps; ++step) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(queries + 16 * step);
    state.queries[step][0] = served ? from[lane() % 4] : 0;
    state.queries[step][2] = served ? from[lane() % 4 + 4] : 0;
    state.queries[step][1] = state.queries[step][3] = 0;  // eight heads fill half of the rows
  }
  state.scale = job.scale * kLog2E;
  state.slope = served && job.slopes ? job.slopes[first_head + head] * kLog2E : 0.0f;
  state.most_bias = larger(state.slope * static_cast<float>(share.keys - 1), 0.0f);
}

// Products of a stage's keys: element e < 2 of scores[n] is of key 8 n + 2 (lane % 4) + e.
template <class Element, int kDim>
XM_DEVICE void multiply_keys(const uint16_t* keys, const HeadState<kDim>& state, float (&scores)[2][4]) {
  XM_UNROLL(2)
  for (int n = 0; n < 2; ++n) {
    XM_UNROLL(4)
    for (int step = 0; step < HeadState<kDim>::kSteps; step += 2) {
      uint32_t b[4];  // of two steps: four times eight channels of eight keys
      ldmatrix_4(b, keys + place<kDim>(8 * n + lane() % 8, 2 * step + lane() / 8));
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      mma<Element>(scores[n], state.queries[step], first);
      mma<Element>(scores[n], state.queries[step + 1], second);
    }
  }
}

// Turns scores into probabilities as the right operand of a product; says by what everything before has to be multiplied.
template <class Element, int kDim>
XM_DEVICE float weigh_keys(const uint32_t (&entries)[kStep], float (&scores)[2][4], HeadState<kDim>& state, uint32_t (&probabilities)[2]) {
  // float16 ends at 2^-24: there all are so many powers of two larger, in sums too, that those of many unlikely keys are not lost
  constexpr float kLift = Element::kHalf ? 15.0f : 0.0f;
  float top = state.top;
  XM_UNROLL(2)
  for (int n = 0; n < 2; ++n) {
    XM_UNROLL(2)
    for (int e = 0; e < 2; ++e) {
      const uint32_t entry = entries[8 * n + 2 * (lane() % 4) + e];
      scores[n][e] = fused(scores[n][e], state.scale, fused(state.slope, static_cast<float>(entry_key(entry)), -state.most_bias));
      if (!entry_kept(entry, lane() / 4)) scores[n][e] = -INFINITY;
      top = scores[n][e] > top ? scores[n][e] : top;
    }
  }
  top = lanes_max(top, 4);
  const float base = finite_or_zero(top), shrink = exp2_fast(state.top - base);
  state.top = top;
  state.sum *= shrink;
  XM_UNROLL(2)
  for (int n = 0; n < 2; ++n) {
    const float low = exp2_fast(scores[n][0] - base + kLift), high = exp2_fast(scores[n][1] - base + kLift);
    state.sum += low + high;
    probabilities[n] = pair_of<Element>(low, high);
  }
  return shrink;
}

template <class Element, int kDim>
XM_DEVICE void add_values(const uint16_t* values, const uint32_t (&probabilities)[2], float shrink, HeadState<kDim>& state) {
  const float shrinks[2] = {shfl(shrink, 8 * (lane() % 4)), shfl(shrink, 8 * (lane() % 4) + 4)};  // of the heads of `out`
  XM_UNROLL(8)
  for (int step = 0; step < HeadState<kDim>::kSteps; ++step) {
    uint32_t a[4];  // channels 0-7 and 8-15 of eight keys, then of the next eight
    ldmatrix_4_transposed(a, values + place<kDim>(lane() % 8 + 8 * (lane() / 16), 2 * step + lane() / 8 % 2));
    XM_UNROLL(4)
    for (int e = 0; e < 4; ++e) state.out[step][e] *= shrinks[e % 2];
    mma<Element>(state.out[step], a, probabilities);
  }
}

// Adds up what the warps of a block have.
template <int kDim>
XM_DEVICE void write_part(const Decode& job, int first_head, int heads, DecodeShared<kDim>& block, HeadState<kDim>& state) {
  WarpShared<kDim>& own = block.warps[warp()];
  const float sum = lanes_sum(state.sum, 4);
  if (lane() % 4 == 0) {
    own.tops[lane() / 4] = state.top;
    own.sums[lane() / 4] = sum;
  }
  XM_UNROLL(8)
  for (int step = 0; step < HeadState<kDim>::kSteps; ++step) {
    XM_UNROLL(4)
    for (int e = 0; e < 4; ++e) own.out[2 * (lane() % 4) + e % 2][16 * step + lane() / 4 + 8 * (e / 2)] = state.out[step][e];
  }
  block_sync();
  for (int i = threadIdx.x; i < heads * kDim; i += kThreads) {
    const int head = i / kDim, channel = i % kDim;
    float top = -INFINITY, all = 0, value = 0;
    for (int w = 0; w < kWarps; ++w) top = block.warps[w].tops[head] > top ? block.warps[w].tops[head] : top;
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2_fast(block.warps[w].tops[head] - finite_or_zero(top));
      all += block.warps[w].sums[head] * factor;
      value += block.warps[w].out[head][channel] * factor;
    }
    const int64_t at = static_cast<int64_t>(blockIdx.y) * job.heads + first_head + head;
    job.parts[at * kDim + channel] = value;
    if (channel == 0) {
      job.tops[at] = top;
      job.sums[at] = all;
    }
  }
}

// A block of threads takes a share of a sequence's words for up to eight query heads of a KV head. Words that follow each other, which tend
// to keep alike, go to different warps.
template <class Element, int kDim>
XM_RESIDENT_KERNEL(kThreads, 3) void attend_kept(Decode job, Sequences sequences) {
  DecodeShared<kDim>& block = shared<DecodeShared<kDim>>();
  WarpShared<kDim>& own = block.warps[warp()];
  let_next_start();
  wait_for_kernel_before();
  const Share share = share_at(sequences, blockIdx.y);
  if (share.sequence < 0) return;
  const int sharing = job.heads / job.kv_heads, rounds = ceil_div(sharing, kSharing);
  const int kv_head = static_cast<int>(blockIdx.x) / rounds, round = static_cast<int>(blockIdx.x) % rounds;
  const int first_head = kv_head * sharing + round * kSharing;
  const int heads = sharing - round * kSharing < kSharing ? sharing - round * kSharing : kSharing;
  const bool by_head = job.masks > job.kv_heads;
  const int64_t first_mask = static_cast<int64_t>(share.sequence) * job.masks + (by_head ? first_head : kv_head);
  const KeyMask mask = {job.words, by_head ? heads : 1, first_mask * job.key_words, share.keys, job.key_words};
  const int64_t rows = (share.sequence * job.sequence_rows + kv_head * job.head_rows) * kDim;
  Listed listed;
  listed.word = share.own * kWarps + warp();
  listed.stride = share.count * kWarps;
  HeadState<kDim> state;
  load_queries(job, share, first_head, heads, state);
  int stage = 0;
  bool ready = false;
  do {
    const bool fetched = fetch_step(mask, job.k + rows, job.v + rows, own, stage, listed);
    stage = 1 - stage;
    if (ready) {
      cp_async_wait<1>();
      warp_sync();
      float scores[2][4] = {};
      uint32_t probabilities[2];
      multiply_keys<Element>(own.rows.keys[stage], state, scores);
      const float shrink = weigh_keys<Element>(own.entries[stage], scores, state, probabilities);
      add_values<Element>(own.rows.values[stage], probabilities, shrink, state);
      warp_sync();
    }
    ready = fetched;
  } while (ready);
  write_part(job, first_head, heads, block, state);
}

struct alignas(16) MergeShared {
  float values[kMergeThreads][4];
};

// A block takes a head of a sequence: some threads the channels of a share, others those of the next. Sums are in an order that lengths alone
// decide.
template <class Element, int kDim>
XM_KERNEL(kMergeThreads) void merge_shares(Decode job, Sequences sequences, uint16_t* out) {
  MergeShared& block = shared<MergeShared>();
  let_next_start();
  wait_for_kernel_before();
  constexpr int kLanes = kDim / 4, kBeside = kMergeThreads / kLanes;  // threads of a share, shares beside each other
  const int thread = threadIdx.x, beside = thread / kLanes, first_channel = 4 * (thread % kLanes);
  const Share shares = shares_in(sequences, static_cast<int>(blockIdx.x) / job.heads);
  const int64_t first = static_cast<int64_t>(shares.first) * job.heads + blockIdx.x % job.heads;
  const float *tops = job.tops + first, *sums = job.sums + first, *parts = job.parts + first * kDim + first_channel;
  float top = -INFINITY;
  for (int share = lane(); share < shares.count; share += kWarp) {
    const float one = tops[static_cast<int64_t>(share) * job.heads];
    top = one > top ? one : top;
  }
  const float base = finite_or_zero(lanes_max(top));
  float sum = 0;
  for (int share = lane(); share < shares.count; share += kWarp) {
    const int64_t at = static_cast<int64_t>(share) * job.heads;
    sum += sums[at] * exp2_fast(tops[at] - base);
  }
  sum = lanes_sum(sum);
  float values[4] = {};
  XM_UNROLL(4)
  for (int share = beside; share < shares.count; share += kBeside) {
    const int64_t at = static_cast<int64_t>(share) * job.heads;
    // not by stream_16: what is read here may still have been written when this kernel, launched early, began
    const uint4 part = *reinterpret_cast<const uint4*>(parts + at * kDim);
    const float factor = exp2_fast(tops[at] - base);
    const uint32_t bits[4] = {part.x, part.y, part.z, part.w};
    XM_UNROLL(4)
    for (int i = 0; i < 4; ++i) values[i] = fused(float_of_bits(bits[i]), factor, values[i]);
  }
  XM_UNROLL(4)
  for (int i = 0; i < 4; ++i) block.values[thread][i] = values[i];
  block_sync();
  if (thread >= kDim) return;
  float value = 0;
  for (int i = 0; i < kBeside; ++i) value += block.values[i * kLanes + thread / 4][thread % 4];
  out[static_cast<int64_t>(blockIdx.x) * kDim + thread] = bits_of<Element>(sum == 0 ? 0.0f : value / sum);  // nothing is kept: zeros
}

template <class Element, int kDim>
int launch_decode(const Decode& job, const Sequences& sequences, int shares, uint16_t* out, void* stream) {
  const int lists = job.kv_heads * ceil_div(job.heads / job.kv_heads, kSharing);
  const dim3 blocks = {static_cast<unsigned>(lists), static_cast<unsigned>(shares), 1};
  const int status = launch_early(attend_kept<Element, kDim>, blocks, kThreads, sizeof(DecodeShared<kDim>), stream, job, sequences);
  if (status) return status;
  const dim3 heads = {static_cast<unsigned>(sequences.count * job.heads), 1, 1};
  return launch_early(merge_shares<Element, kDim>, heads, kMergeThreads, sizeof(MergeShared), stream, job, sequences, out);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// dim is 64 or 128, heads a multiple of kv_heads, masks kv_heads or heads, room at most 2^24; tops, sums [shares, heads], parts
// [shares, heads, dim] and out [sequences, heads, dim] start on multiples of 16 bytes.
XM_API int xm_cuda_decode(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint64_t* words, const float* slopes,
                          float* tops, float* sums, float* parts, uint16_t* out, int64_t head_rows, int64_t sequence_rows, int heads,
                          int kv_heads, int masks, int key_words, int dim, float scale, const int* lengths, int count, int room,
                          int shares_wanted, int least, int most, int shares, void* stream) {
  const Decode job = {q, k, v, words, slopes, tops, sums, parts, head_rows, sequence_rows, heads, kv_heads, masks, key_words, scale};
  const Sequences sequences = {lengths, count, room, shares_wanted, least, most};
  const auto run = dim == 64 ? (half ? launch_decode<Half, 64> : launch_decode<Bf16, 64>)
                             : (half ? launch_decode<Half, 128> : launch_decode<Bf16, 128>);
  return run(job, sequences, shares, out, stream);
}
