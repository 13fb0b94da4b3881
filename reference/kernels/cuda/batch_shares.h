// Sequences of different lengths that are served together, and how the words of their keys are shared out among blocks of threads: on the
// device, by lengths that lie there, as they change between replays of a graph.
#pragma once

#include "simt.h"

namespace xmsim {

constexpr int kWordKeys = 64;  // of a word of a mask

struct Sequences {
  const int* lengths;  // [count], in keys; none: all rooms are full
  int count, room;     // how many there are, and keys that one of them has room for
  int shares;          // wanted of all together; without lengths those of each
  int least, most;     // words of a share
};

// A share of a sequence's words; of no sequence: -1.
struct Share {
  int sequence, keys;
  int own, count;  // which of how many shares of the sequence
  int first;       // shares of the sequences before it
};

XM_DEVICE int keys_of(const Sequences& all, int sequence) {
  if (!all.lengths) return all.room;
  const int length = all.lengths[sequence];
  return length < 0 ? 0 : length < all.room ? length : all.room;
}

// Shares of a sequence: in proportion to its words, but one if it has any.
XM_DEVICE int shares_of(const Sequences& all, int words, uint32_t all_words) {
  if (!words) return 0;
  const int wanted = static_cast<int>(static_cast<uint64_t>(all.shares) * static_cast<uint32_t>(words) / all_words);
  const int highest = ceil_div(words, all.least), lowest = ceil_div(words, all.most);
  const int fewer = wanted < highest ? wanted : highest;
  return fewer > lowest ? fewer : lowest;
}

// The sequence that `is_wanted(sequence, its first share, their count)` is true of, by all lanes of a warp.
template <class Wanted>
XM_DEVICE Share find_sequence(const Sequences& all, Wanted is_wanted) {
  uint32_t all_words = 0;
  for (int first = 0; first < all.count; first += kWarp) {
    const int sequence = first + lane();
    if (sequence < all.count) all_words += ceil_div(keys_of(all, sequence), kWordKeys);
  }
  all_words = lanes_sum(all_words);
  int before = 0;
  for (int first = 0; first < all.count; first += kWarp) {
    const int sequence = first + lane(), keys = sequence < all.count ? keys_of(all, sequence) : 0;
    const int own = shares_of(all, ceil_div(keys, kWordKeys), all_words), up_to = before + lanes_running_sum(own);
    const uint32_t found = ballot(sequence < all.count && is_wanted(sequence, up_to - own, own));
    if (found) {
      const int at = lowest_bit(found);
      return {first + at, shfl(keys, at), 0, shfl(own, at), shfl(up_to - own, at)};
    }
    before = shfl(up_to, kWarp - 1);
  }
  return {-1, 0, 0, 0, 0};
}

// Share number `share` of all.
XM_DEVICE Share share_at(const Sequences& all, int share) {
  if (!all.lengths) {
    const int sequence = share / all.shares, first = sequence * all.shares;
    return {sequence, all.room, share - first, all.shares, first};
  }
  Share found = find_sequence(all, [&](int, int first, int count) { return first <= share && share < first + count; });
  found.own = share - found.first;
  return found;
}

// The first share of a sequence, which may have none.
XM_DEVICE Share shares_in(const Sequences& all, int sequence) {
  if (!all.lengths) return {sequence, all.room, 0, all.shares, sequence * all.shares};
  return find_sequence(all, [&](int one, int, int) { return one == sequence; });
}

}  // namespace xmsim
