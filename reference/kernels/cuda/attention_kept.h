// Which keys a warp attends to, listed as far as it needs them: the set bits of words of a mask that lie a stride apart.
#pragma once

#include "batch_shares.h"

namespace xmsim {

constexpr int kSharing = 8;     // query heads that are served together
constexpr int kWindowWords = 8;  // that are listed together, each by four lanes
constexpr int kCarried = 16;    // entries that may be left when more are listed

// The mask of a KV head, or those of up to eight of its query heads.
struct KeyMask {
  const uint64_t* words;  // [masks, key_words]; none: every key is kept
  int64_t masks, first;   // how many there are, 1 or one for each query head, and where the first starts, in words
  int keys, key_words;    // of the keys, and from one mask to the next
};

// Keys that are listed and not taken yet, and the word that comes next; the same in all lanes.
struct Listed {
  int from = 0, count = 0;
  int word, stride;
};

// An entry: the key, of up to 2^24, and a bit for each query head that keeps it; 0 is none.
XM_DEVICE uint32_t key_entry(int key, uint32_t keeps) { return static_cast<uint32_t>(key) << kSharing | keeps; }
XM_DEVICE int entry_key(uint32_t entry) { return static_cast<int>(entry >> kSharing); }
XM_DEVICE bool entry_kept(uint32_t entry, int head) { return entry >> head & 1; }

// Lists the kept keys of the next window of words in ascending order, after the few that are left of the last one.
XM_DEVICE void list_keys(const KeyMask& mask, uint32_t (&entries)[kCarried + kWindowWords * kWordKeys], Listed& listed) {
  const bool carries = lane() < listed.count;
  const uint32_t carried = carries ? entries[listed.from + lane()] : 0;
  warp_sync();
  if (carries) entries[lane()] = carried;
  constexpr int kQuarter = kWordKeys / 4;
  const int word = listed.word + lane() / 4 * listed.stride, first_key = word * kWordKeys + lane() % 4 * kQuarter;
  const int there = mask.keys - first_key;
  const uint32_t valid = there <= 0 ? 0 : there < kQuarter ? (1u << there) - 1 : (1u << kQuarter) - 1;
  const uint16_t* quarter = reinterpret_cast<const uint16_t*>(mask.words + mask.first + word) + lane() % 4;
  uint32_t kept[kSharing], any = 0;
  XM_UNROLL(8)
  for (int head = 0; head < kSharing; ++head) {
    const bool reads = mask.words && head < mask.masks && valid;
    kept[head] = reads ? quarter[head * 4 * static_cast<int64_t>(mask.key_words)] & valid : 0;
    any |= kept[head];
  }
  if (!mask.words) any = valid;
  int before = popcount(any);
  const int own = before;
  XM_UNROLL(5)
  for (int by = 1; by < kWarp; by *= 2) {
    const int lower = shfl_up(before, by);
    before += lane() < by ? 0 : lower;
  }
  int at = listed.count + before - own;
  for (; any; any &= any - 1) {
    const int key = lowest_bit(any);
    uint32_t keeps = (1u << kSharing) - 1;
    if (mask.masks > 1) {
      keeps = 0;
      XM_UNROLL(8)
      for (int head = 0; head < kSharing; ++head) keeps |= (kept[head] >> key & 1) << head;
    }
    entries[at++] = key_entry(first_key + key, keeps);
  }
  listed.from = 0;
  listed.count += shfl(before, kWarp - 1);
  listed.word += kWindowWords * listed.stride;
  warp_sync();
}

}  // namespace xmsim
