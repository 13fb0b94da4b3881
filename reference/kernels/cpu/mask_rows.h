// Rules that decide a row on its own: X:M, N:M, top-k, threshold. Included once for each instruction set, after mask_scores.h.

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kTileRows = 16;

// Sums of exponentials closer than this to their threshold are decided again. A float32 difference of scores, up to 87 apart, is off by
// 87 × 2^-24 and so is its exponential; that of the polynomial (2 × 2^-24) and of sums of 64 terms (8 × 2^-24) lies far below.
constexpr double kMargin = 1e-5;
constexpr double kSmallest = 1e-30;  // exponentials of scores further apart count as 1e-38 each

// e to the power of x <= 0, of x = 0 exactly 1; the same bits on every instruction set, as nothing is contracted.
XM_SET XM_INLINE V exponential(const V& given) {
  const V x = max(given, set(-87.0f));
  const V shifted = add(mul(x, set(1.44269504088896341f)), set(kRounder + 127));  // its low bits are the exponent of 2^n
  const V n = sub(shifted, set(kRounder + 127));
  const V rest = sub(sub(x, mul(n, set(0.693359375f))), mul(n, set(-2.12194440e-4f)));  // ln 2 in two parts, the first times n exact
  V power = set(1.98756915e-4f);
  power = add(mul(power, rest), set(1.39819995e-3f));
  power = add(mul(power, rest), set(8.33345205e-3f));
  power = add(mul(power, rest), set(4.16657962e-2f));
  power = add(mul(power, rest), set(1.66666657e-1f));
  power = add(mul(power, rest), set(5.00000012e-1f));
  power = add(add(mul(mul(power, rest), rest), rest), set(1.0f));
  return mul(power, shifted_to_exponent(shifted));
}

XM_SET XM_INLINE V load_upto(const float* values, int64_t n, float fill) { return n >= 16 ? load(values) : load_first(values, n, fill); }

XM_SET XM_INLINE float smallest(const V& lanes) { return -largest(sub(set(0.0f), lanes)); }

// The sum of the exponentials of n scores below `top`.
XM_SET double exponential_sum(const float* values, int64_t n, float top) {
  double sum = 0;
  for (int64_t first = 0; first < n; first += 64) {
    V lanes = set(0.0f);
    for (int64_t i = first; i < n && i < first + 64; i += 16)
      lanes = add(lanes, exponential(sub(load_upto(values + i, n - i, -kInfinity), set(top))));
    sum += total(lanes);
  }
  return sum;
}

// Marks up to 64 keys from `first` on in the words of a row.
XM_SET XM_INLINE void put_bits(uint64_t* words, int64_t first, uint64_t bits) {
  const int64_t word = first / 64, shift = first % 64;
  words[word] |= bits << shift;
  if (shift && bits >> (64 - shift)) words[word + 1] |= bits >> (64 - shift);
}

XM_SET XM_INLINE uint64_t ones(int64_t count) { return count < 64 ? (1ull << count) - 1 : ~0ull; }

// Up to 64 scores in registers.
struct ShortRun {
  V lanes[4];
  int64_t n;
};

// Any number of scores in memory.
struct LongRun {
  const float* values;
  int64_t n;
};

XM_SET XM_INLINE ShortRun short_run(const float* values, int64_t n) {
  ShortRun run;
  run.n = n;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) run.lanes[i] = n > 16 * i ? load_upto(values + 16 * i, n - 16 * i, -kInfinity) : set(-kInfinity);
  return run;
}

XM_SET XM_INLINE uint64_t at_least(const ShortRun& run, float limit) {
  const V limits = set(limit);
  return ge_bits(run.lanes[0], limits) | ge_bits(run.lanes[1], limits) << 16 | ge_bits(run.lanes[2], limits) << 32 |
         ge_bits(run.lanes[3], limits) << 48;
}

XM_SET XM_INLINE uint64_t above(const ShortRun& run, float limit) {
  const V limits = set(limit);
  return ~(ge_bits(limits, run.lanes[0]) | ge_bits(limits, run.lanes[1]) << 16 | ge_bits(limits, run.lanes[2]) << 32 |
           ge_bits(limits, run.lanes[3]) << 48);
}

// Up to 64 scores from `first` on.
XM_SET XM_INLINE ShortRun part_of(const LongRun& run, int64_t first) { return short_run(run.values + first, run.n - first); }

XM_SET XM_INLINE int64_t count_at_least(const ShortRun& run, float limit) { return bit_count(at_least(run, limit)); }

XM_SET XM_INLINE int64_t count_at_least(const LongRun& run, float limit) {
  int64_t count = 0;
  for (int64_t first = 0; first < run.n; first += 64) count += count_at_least(part_of(run, first), limit);
  return count;
}

XM_SET XM_INLINE int64_t count_above(const LongRun& run, float limit) {
  int64_t count = 0;
  for (int64_t first = 0; first < run.n; first += 64) count += bit_count(above(part_of(run, first), limit));
  return count;
}

XM_SET XM_INLINE V lanes_below(const ShortRun& run, V best, float limit) {
  const V limits = set(limit), lowest = set(-kInfinity);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) best = max(best, where_less(run.lanes[i], limits, lowest));
  return best;
}

XM_SET XM_INLINE float largest_below(const ShortRun& run, float limit) { return largest(lanes_below(run, set(-kInfinity), limit)); }

XM_SET XM_INLINE float largest_below(const LongRun& run, float limit) {
  V best = set(-kInfinity);
  for (int64_t first = 0; first < run.n; first += 64) best = lanes_below(part_of(run, first), best, limit);
  return largest(best);
}

struct Extremes {
  float low, high;
};

XM_SET XM_INLINE Extremes extremes(const float* values, int64_t n) {
  V low = set(kInfinity), high = set(-kInfinity);
  for (int64_t i = 0; i < n; i += 16) {
    low = min(low, load_upto(values + i, n - i, kInfinity));
    high = max(high, load_upto(values + i, n - i, -kInfinity));
  }
  return {smallest(low), largest(high)};
}

struct Cut {
  float score;
  int64_t count;  // scores at or above it: more than are kept where equal ones straddle the cut
};

// The kept-th largest of more than `kept` scores, or a number between it and the next: halves of the scores' span, then value by value,
// because few are left and equal ones cannot be told apart by halving.
template <class Run>
XM_SET XM_INLINE Cut find_cut(const Run& run, int64_t kept, Extremes ends) {
  float low = ends.low, high = ends.high, limit = kInfinity;  // at least `kept` reach low; fewer reach limit
  for (int64_t left = run.n; left; left /= 2) {
    const float middle = 0.5f * low + 0.5f * high;
    const int64_t count = count_at_least(run, middle);
    if (count == kept) return {middle, count};
    if (count > kept) {
      low = middle;
    } else {
      high = limit = middle;
    }
  }
  while (true) {
    const float candidate = largest_below(run, limit);
    const int64_t count = count_at_least(run, candidate);
    if (count >= kept) return {candidate, count};
    limit = candidate;
  }
}

// Marks the `kept` largest of n scores, the first of equals, whose first is key `key`.
XM_SET void keep_largest(const float* values, int64_t n, int64_t kept, uint64_t* words, int64_t key) {
  if (n <= kept) {
    for (int64_t first = 0; first < n; first += 64) put_bits(words, key + first, ones(n - first));
    return;
  }
  if (!kept) return;
  const Extremes ends = extremes(values, n);
  if (n <= 64) {
    const ShortRun run = short_run(values, n);
    const Cut cut = find_cut(run, kept, ends);
    uint64_t bits = at_least(run, cut.score);
    if (cut.count > kept) {
      const uint64_t higher = above(run, cut.score);
      bits = higher | first_bits(bits & ~higher, static_cast<int>(kept - bit_count(higher)));
    }
    put_bits(words, key, bits);
    return;
  }
  const LongRun run{values, n};
  const Cut cut = find_cut(run, kept, ends);
  int64_t places = kept - count_above(run, cut.score);  // for scores equal to the cut
  for (int64_t first = 0; first < n; first += 64) {
    const ShortRun part = part_of(run, first);
    const uint64_t higher = above(part, cut.score), equal = at_least(part, cut.score) & ~higher;
    const uint64_t taken = places >= 64 ? equal : first_bits(equal, static_cast<int>(places));
    places -= bit_count(taken);
    put_bits(words, key + first, higher | taken);
  }
}

// One row of scores: those of keys [allowed.first, allowed.end).
struct Row {
  const float* scores;
  Range allowed;
  uint64_t* words;
};

bool is_near(double sum, double limit) { return std::fabs(sum - limit) <= kMargin * limit + kSmallest; }

// Where the part of a block that a row sees ends, given where it begins.
int64_t block_end(const Row& row, int64_t first, int64_t block) {
  const int64_t next = (first / block + 1) * block;
  return next < row.allowed.end ? next : row.allowed.end;
}

// Returns whether the row is in doubt. Sums of equal scores are whole numbers and a lone block is the row, so these are decided for good.
XM_SET bool keep_xm(const MaskJob& job, const Row& row, Scratch& own) {
  const MaskRule& rule = job.rule;
  const int64_t seen = row.allowed.end - row.allowed.first;
  if (!seen) return false;
  const Extremes ends = extremes(row.scores + row.allowed.first, seen);
  const bool equal_scores = ends.low == ends.high;
  own.mass.clear();
  double row_mass = 0;
  for (int64_t first = row.allowed.first, end; first < row.allowed.end; first = end) {
    end = block_end(row, first, rule.block);
    own.mass.push_back(equal_scores ? static_cast<double>(end - first) : exponential_sum(row.scores + first, end - first, ends.high));
    row_mass += own.mass.back();
  }
  const int64_t counted = rule.kind == MaskKind::xm ? job.scores.keys : seen > rule.block ? seen : rule.block;
  const double blocks = static_cast<double>(counted) / static_cast<double>(rule.block);
  const double high = rule.high * row_mass, low = rule.low * row_mass;
  const bool lone = own.mass.size() == 1;
  bool doubtful = false;
  int64_t number = 0;
  for (int64_t first = row.allowed.first, end; first < row.allowed.end; first = end, ++number) {
    end = block_end(row, first, rule.block);
    const double share = own.mass[number] * blocks;
    const bool is_high = share > high, is_empty = !is_high && share < low;
    keep_largest(row.scores + first, end - first, is_high ? rule.kept_high : is_empty ? 0 : rule.kept_low, row.words, first);
    doubtful |= !(lone && blocks == rule.high) && is_near(share, high);
    doubtful |= rule.low > 0 && !(lone && blocks == rule.low) && is_near(share, low);
  }
  return doubtful && !equal_scores;
}

XM_SET void keep_nm(const MaskJob& job, const Row& row) {
  for (int64_t first = row.allowed.first, end; first < row.allowed.end; first = end) {
    end = block_end(row, first, job.rule.block);
    keep_largest(row.scores + first, end - first, job.rule.kept_high, row.words, first);
  }
}

// Returns whether the row is in doubt.
XM_SET bool keep_above_threshold(const MaskJob& job, const Row& row) {
  const float* scores = row.scores + row.allowed.first;
  const int64_t seen = row.allowed.end - row.allowed.first;
  if (!seen) return false;
  const Extremes ends = extremes(scores, seen);
  const bool equal_scores = ends.low == ends.high;
  const double sum = equal_scores ? static_cast<double>(seen) : exponential_sum(scores, seen, ends.high), limit = job.rule.high * sum;
  const float above = static_cast<float>(limit * (1 + kMargin) + kSmallest), below = static_cast<float>(limit * (1 - kMargin) - kSmallest);
  uint64_t doubtful = 0;
  for (int64_t i = 0; i < seen; i += 16) {
    const V weights = exponential(sub(load_upto(scores + i, seen - i, -kInfinity), set(ends.high)));
    const uint64_t in_row = ones(seen - i < 16 ? seen - i : 16);
    const uint64_t kept = (equal_scores ? (1.0 > limit ? ~0ull : 0) : ge_bits(weights, set(static_cast<float>(limit)))) & in_row;
    doubtful |= ge_bits(weights, set(below)) & ~ge_bits(weights, set(above)) & in_row;
    put_bits(row.words, row.allowed.first + i, kept);
  }
  return doubtful && !equal_scores;
}
