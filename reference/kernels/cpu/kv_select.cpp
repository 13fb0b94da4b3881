// Which keys of a cache a query keeps, by low-bit prediction: scores block by block, then the selection list by list.
#include "attention.h"
#include "team.h"

namespace {

constexpr int64_t kPartBlocks = 32;

}  // namespace

// X:M (kept_low < 0: the kept_high largest of each whole row instead). Arguments as in PredictionCall and SelectionCall.
XM_API void xm_predict_and_select(const uint8_t* codes, const int8_t* q, const int32_t* offsets, const float* factors, const float* slopes,
                                  float* scores, float* exponentials, float* tops, float* sums, uint64_t* words, int64_t heads,
                                  int64_t kv_heads, int64_t queries, int64_t keys, int64_t dim, int64_t head_codes, int code_bits,
                                  int64_t heads_a_list, int largest, int64_t kept_high, int64_t kept_low, double threshold_high,
                                  double threshold_low, int threads) {
  using namespace xmsim;
  PredictionCall prediction{};
  prediction.codes = codes, prediction.q = q, prediction.offsets = offsets, prediction.factors = factors, prediction.slopes = slopes;
  prediction.scores = scores, prediction.exponentials = heads_a_list > 1 ? exponentials : nullptr;
  prediction.tops = tops, prediction.sums = sums;
  prediction.heads = heads, prediction.kv_heads = kv_heads, prediction.queries = queries, prediction.keys = keys, prediction.dim = dim;
  prediction.head_codes = head_codes, prediction.code_bits = code_bits;
  const SelectionCall selection{prediction, heads_a_list, largest != 0, kept_high, kept_low, threshold_high, threshold_low, words};
  const AttentionPath& path = attention_path();
  const int64_t blocks = prediction.blocks(), parts_a_head = (blocks + kPartBlocks - 1) / kPartBlocks;
  for_parts(kv_heads * parts_a_head, threads, [&](int64_t part) {
    const int64_t first = part % parts_a_head * kPartBlocks, last = first + kPartBlocks < blocks ? first + kPartBlocks : blocks;
    for (int64_t block = first; block < last; ++block) path.predict_block(prediction, part / parts_a_head, block);
  });
  const auto select = kept_low < 0 ? path.select_top : path.select_xm;
  for_parts(selection.lists(), threads, [&](int64_t list) { select(selection, list); });
}
