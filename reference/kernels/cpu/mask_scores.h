// Scores of a few rows, sixteen keys at a time, in a strip of this thread's own. Included once for each instruction set, after its lanes.

// How far a row sees: keys [first, end).
struct Range {
  int64_t first, end;
};

Range allowed_keys(const MaskScores& scores, int64_t query) {
  if (!scores.causal) return {0, scores.keys};
  const int64_t position = scores.offset + query;
  const int64_t end = position + 1 < scores.keys ? position + 1 : scores.keys;
  const int64_t first = scores.window && position + 1 > scores.window ? position + 1 - scores.window : 0;
  return {first < end ? first : end, end};
}

// A thread's own memory, kept from one part to the next.
struct Scratch {
  std::vector<float> strip, q, factors, slopes;
  std::vector<int32_t> q_words, q_starts;
  std::vector<double> mass;      // of each block of a row
  std::vector<double> sums;      // of rows, columns and diagonals of a tile
  std::vector<uint8_t> chosen;   // rows and columns of a tile
  std::vector<uint64_t> keep;    // columns of a row of a tile, and those that all its rows keep
  std::vector<float> left;       // scores of a row of a tile that may be picked
};

Scratch& scratch() {
  static thread_local Scratch own;
  return own;
}

// Adding it rounds a magnitude below 2^22 to an integer, halves to even; taking it off again leaves that integer.
constexpr float kRounder = 12582912.0f;

XM_SET void quantise(const float* values, int64_t count, float top, float steps, float* integers) {
  for (int64_t i = 0; i < count; ++i) {
    const float clamped = values[i] < -top ? -top : values[i] > top ? top : values[i];
    integers[i] = (clamped * steps + kRounder) - kRounder;
  }
}

// Of each `group` channels all but the one of largest magnitude, the first of equals, become 0.
void prune_channels(float* values, int64_t dim, int64_t group) {
  for (int64_t first = 0; first < dim; first += group) {
    int64_t best = first;
    for (int64_t i = first + 1; i < first + group; ++i)
      if (std::fabs(values[i]) > std::fabs(values[best])) best = i;
    for (int64_t i = first; i < first + group; ++i)
      if (i != best) values[i] = 0;
  }
}

// Whether products are of bytes: only of low-bit operands, and where the processor has them.
bool in_bytes(const MaskScores& scores) {
#if defined(XM_BYTE_DOTS)
  return scores.q_top != nullptr;
#else
  (void)scores;
  return false;
#endif
}

// Sixteen keys next to each other, channel by channel; bytes hold four channels of a key together.
XM_SET void pack_keys(const MaskJob& job, int64_t part, Scratch& own) {
  const MaskScores& from = job.scores;
  const int64_t kv_head = part / job.key_blocks(), first = part % job.key_blocks() * 16, dim = from.dim, words = (dim + 3) / 4;
  own.q.resize(dim);
  float* floats = static_cast<float*>(job.out.packed_keys) + part * dim * 16;
  uint8_t* bytes = static_cast<uint8_t*>(job.out.packed_keys) + part * words * 64;
  std::memset(in_bytes(from) ? static_cast<void*>(bytes) : floats, 0, in_bytes(from) ? words * 64 : dim * 16 * sizeof(float));
  for (int64_t lane = 0; lane < 16 && first + lane < from.keys; ++lane) {
    const float* key = from.k + (kv_head * from.keys + first + lane) * dim;
    if (from.q_top) {
      quantise(key, dim, from.k_top[kv_head], from.k_steps[kv_head], own.q.data());
      key = own.q.data();
    }
    if (in_bytes(from)) {
      for (int64_t c = 0; c < dim; ++c) bytes[c / 4 * 64 + lane * 4 + c % 4] = static_cast<uint8_t>(static_cast<int>(key[c]) + 128);
    } else {
      for (int64_t c = 0; c < dim; ++c) floats[c * 16 + lane] = key[c];
    }
  }
}

// Queries of `rows` consecutive rows of a KV head, ready for the dot products; rows up to the next multiple of kDotRows are zeros.
XM_SET void prepare_queries(const MaskJob& job, int64_t kv_head, int64_t first_row, int64_t rows, Scratch& own) {
  const MaskScores& from = job.scores;
  const int64_t dim = from.dim, words = (dim + 3) / 4, padded = (rows + kDotRows - 1) / kDotRows * kDotRows;
  own.q.assign(padded * dim, 0.0f);
  const float* queries = from.q + (kv_head * job.group_rows() + first_row) * dim;
  std::memcpy(own.q.data(), queries, rows * dim * sizeof(float));
  own.factors.assign(padded, 0.0f);
  own.slopes.assign(padded, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = (kv_head * job.group_rows() + first_row + row) / from.queries;
    own.factors[row] = from.factor[head];
    if (from.slopes) own.slopes[row] = from.slopes[head];
    if (!from.q_top) continue;
    float* values = own.q.data() + row * dim;
    if (from.group > 1) prune_channels(values, dim, from.group);
    quantise(values, dim, from.q_top[head], from.q_steps[head], values);
  }
  if (!in_bytes(from)) return;
  own.q_words.assign(padded * words, 0);
  own.q_starts.assign(padded, 0);
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = own.q.data() + row * dim;
    int8_t* bytes = reinterpret_cast<int8_t*>(own.q_words.data() + row * words);
    int32_t sum = 0;
    for (int64_t c = 0; c < dim; ++c) sum += bytes[c] = static_cast<int8_t>(values[c]);
    own.q_starts[row] = -128 * sum;
  }
}

template <int Rows>
XM_SET XM_INLINE void dot_floats(const float* q, const float* keys, int64_t dim, V* sums) {
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) sums[row] = set(0.0f);
  for (int64_t c = 0; c < dim; ++c) {
    const V key = load(keys + 16 * c);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) sums[row] = multiply_add(set(q[row * dim + c]), key, sums[row]);
  }
}

// Scores of Rows rows from `row` of the strip on, and of the sixteen keys of a block.
template <int Rows>
XM_SET XM_INLINE void score_block(const MaskJob& job, Scratch& own, int64_t kv_head, int64_t row, int64_t rows, int64_t block,
                                  int64_t stride) {
  const MaskScores& from = job.scores;
  const int64_t dim = from.dim, part = kv_head * job.key_blocks() + block;
  V sums[Rows];
#if defined(XM_BYTE_DOTS)
  if (in_bytes(from)) {
    const int64_t words = (dim + 3) / 4;
    dot_bytes<Rows>(own.q_words.data() + row * words, own.q_starts.data() + row,
                    static_cast<const uint8_t*>(job.out.packed_keys) + part * words * 64, words, sums);
  } else
#endif
    dot_floats<Rows>(own.q.data() + row * dim, static_cast<const float*>(job.out.packed_keys) + part * dim * 16, dim, sums);
  float* strip = own.strip.data() + row * stride + block * 16;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    if (row + i >= rows) break;
    V score = mul(sums[i], set(own.factors[row + i]));
    if (from.slopes) {  // rounded twice, as the reference rounds
      float positions[16];
      for (int lane = 0; lane < 16; ++lane) positions[lane] = static_cast<float>(block * 16 + lane);
      score = add(score, mul(set(own.slopes[row + i]), load(positions)));
    }
    store(strip + i * stride, score);
  }
}

// Scores of `rows` consecutive rows of a KV head on keys of [keys.first, keys.end) at least; returns the strip [rows, key_blocks × 16].
XM_SET float* score_rows(const MaskJob& job, Scratch& own, int64_t kv_head, int64_t first_row, int64_t rows, Range keys) {
  const int64_t stride = job.key_blocks() * 16;
  if (static_cast<int64_t>(own.strip.size()) < rows * stride) own.strip.resize(rows * stride);
  prepare_queries(job, kv_head, first_row, rows, own);
  for (int64_t block = keys.first / 16; block * 16 < keys.end; ++block)
    for (int64_t row = 0; row < rows; row += kDotRows) score_block<kDotRows>(job, own, kv_head, row, rows, block, stride);
  return own.strip.data();
}
