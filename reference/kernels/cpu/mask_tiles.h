// SALOv2's rule, which decides tiles, and the walk over rows and tiles. Included once for each instruction set, after mask_rows.h.

// Stands for a sum with a pair that is not allowed in it; lower still is what must not be chosen at all.
constexpr double kLowestSum = -std::numeric_limits<double>::max();
constexpr double kNever = -std::numeric_limits<double>::infinity();

int64_t first_largest(const double* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

// Marks the `count` largest sums, the first of equals.
void choose_largest(double* sums, int64_t size, int64_t count, uint8_t* chosen) {
  for (int64_t i = 0; i < size; ++i) sums[i] = sums[i] < kLowestSum ? kLowestSum : sums[i];
  for (; count > 0; --count) {
    const int64_t best = first_largest(sums, size);
    chosen[best] = 1;
    sums[best] = kNever;
  }
}

// A tile: rows of scores of one head, and keys [first_key, first_key + columns).
struct Tile {
  const float* scores;  // of its first row and key 0
  int64_t stride, rows, first_row, first_key, columns;
};

// Adds up rows, columns and diagonals, each in the order of the reference, because sums of float64 depend on it.
XM_SET void add_up(const Tile& tile, int64_t block, double* row_sums, double* column_sums, double* diagonal_sums) {
  constexpr int64_t kTogether = 8;  // rows: one alone would wait for each of its additions
  for (int64_t first = 0; first < tile.rows; first += kTogether) {
    const int64_t last = tile.rows - 1 - first;
    const float* rows[kTogether];
    for (int64_t i = 0; i < kTogether; ++i) rows[i] = tile.scores + (first + std::min(i, last)) * tile.stride + tile.first_key;
    double sums[kTogether] = {};
    for (int64_t column = 0; column < tile.columns; ++column)
      for (int64_t i = 0; i < kTogether; ++i) sums[i] += rows[i][column];
    for (int64_t i = 0; i < kTogether && i <= last; ++i) row_sums[first + i] = sums[i];
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    const float* scores = tile.scores + row * tile.stride + tile.first_key;
    double* diagonals = diagonal_sums + block - 1 - tile.first_row - row;
    for (int64_t column = 0; column < tile.columns; ++column) column_sums[column] += scores[column];
    for (int64_t column = 0; column < tile.columns; ++column) diagonals[column] += scores[column];
  }
}

// The first diagonal of the window that adds up to most.
XM_SET int64_t best_window(const MaskRule& rule, const Tile& tile, const double* diagonal_sums, double* sums) {
  const int64_t reach = rule.dilation * (rule.window - 1), starts = 2 * rule.block - 1 - reach;
  for (int64_t start = 0; start < starts; ++start) sums[start] = 0;
  for (int64_t offset = 0; offset <= reach; offset += rule.dilation)
    for (int64_t start = 0; start < starts; ++start) sums[start] += diagonal_sums[offset + start];
  const int64_t lower_left = std::min(rule.block - tile.first_row - tile.rows, starts - 1);
  const int64_t upper_right = rule.block - tile.first_row - 2 + tile.columns, last = std::max(upper_right - reach, lower_left);
  for (int64_t start = 0; start < starts; ++start)
    sums[start] = start < lower_left || start > last ? kNever : std::max(sums[start], kLowestSum);
  return first_largest(sums, starts);
}

// Takes pairs that are not allowed out of `keep`, and adds the largest scores of a row of a tile, those kept already counting as 0.
XM_SET void pick(const float* scores, int64_t columns, int64_t picks, uint64_t* keep, float* left) {
  std::copy(scores, scores + columns, left);
  for (int64_t first = 0; first < columns; first += 64)
    for (uint64_t bits = keep[first / 64]; bits; bits &= bits - 1) {
      const int64_t column = first + __builtin_ctzll(bits);
      if (scores[column] > -kInfinity) {
        left[column] = 0;
      } else {
        keep[first / 64] &= ~(1ull << column % 64);
      }
    }
  for (; picks > 0; --picks) {
    V lanes = set(-kInfinity);
    for (int64_t i = 0; i < columns; i += 16) lanes = max(lanes, load_upto(left + i, columns - i, -kInfinity));
    const float best = largest(lanes);
    if (best == -kInfinity) return;  // none of the others is allowed
    for (int64_t i = 0; i < columns; i += 16) {
      const uint64_t bits = ge_bits(load_upto(left + i, columns - i, -kInfinity), set(best));
      if (!bits) continue;
      const int64_t column = i + __builtin_ctzll(bits);
      keep[column / 64] |= 1ull << column % 64;
      left[column] = -kInfinity;
      break;
    }
  }
}

XM_SET void keep_tile(const MaskJob& job, const Tile& tile, Scratch& own, uint64_t* words) {
  const MaskRule& rule = job.rule;
  const int64_t block = rule.block, diagonals = 2 * block - 1;
  own.sums.assign(2 * block + 2 * diagonals, 0.0);
  own.chosen.assign(2 * block, 0);
  own.keep.assign(2 * ((block + 63) / 64), 0);
  own.left.resize(block);
  double *row_sums = own.sums.data(), *column_sums = row_sums + block, *diagonal_sums = column_sums + block;
  add_up(tile, block, row_sums, column_sums, diagonal_sums);
  uint8_t *is_row = own.chosen.data(), *is_column = is_row + block;
  choose_largest(row_sums, tile.rows, std::min(rule.global_tokens, tile.rows - 1), is_row);
  choose_largest(column_sums, tile.columns, std::min(rule.global_tokens, tile.columns), is_column);
  const int64_t start = best_window(rule, tile, diagonal_sums, diagonal_sums + diagonals), row_words = (tile.columns + 63) / 64;
  uint64_t *keep = own.keep.data(), *in_columns = keep + row_words;
  for (int64_t column = 0; column < tile.columns; ++column)
    in_columns[column / 64] |= static_cast<uint64_t>(is_column[column]) << column % 64;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const float* scores = tile.scores + row * tile.stride + tile.first_key;
    for (int64_t word = 0; word < row_words; ++word) keep[word] = is_row[row] ? ones(tile.columns - 64 * word) : in_columns[word];
    for (int64_t i = 0; i < rule.window; ++i) {
      const int64_t column = start + i * rule.dilation - (block - 1 - tile.first_row - row);
      if (column >= 0 && column < tile.columns) keep[column / 64] |= 1ull << column % 64;
    }
    pick(scores, tile.columns, rule.picks, keep, own.left.data());
    for (int64_t word = 0; word < row_words; ++word) put_bits(words + row * job.row_words(), tile.first_key + 64 * word, keep[word]);
  }
}

// Every tile of the rows of one head that stand side by side.
XM_SET void keep_row_of_tiles(const MaskJob& job, int64_t part, int64_t parts_per_head, Scratch& own) {
  const MaskScores& from = job.scores;
  const int64_t block = job.rule.block, head = part / parts_per_head, stride = job.key_blocks() * 16;
  const int64_t tile_of_queries = from.offset / block + part % parts_per_head;
  const int64_t first_query = std::max<int64_t>(0, tile_of_queries * block - from.offset);
  const int64_t rows = std::min(from.queries, (tile_of_queries + 1) * block - from.offset) - first_query;
  const int64_t group = from.heads / from.kv_heads;
  const int64_t first_key = allowed_keys(from, first_query).first / block * block;
  const int64_t end = std::min(from.keys, (allowed_keys(from, first_query + rows - 1).end + block - 1) / block * block);
  if (first_key >= end) return;
  float* strip = score_rows(job, own, head / group, head % group * from.queries + first_query, rows, {first_key, end});
  for (int64_t row = 0; row < rows; ++row) {
    const Range allowed = allowed_keys(from, first_query + row);
    std::fill(strip + row * stride + first_key, strip + row * stride + allowed.first, -kInfinity);
    std::fill(strip + row * stride + allowed.end, strip + row * stride + end, -kInfinity);
  }
  uint64_t* words = job.out.words + (head * from.queries + first_query) * job.row_words();
  for (int64_t key = first_key; key < end; key += block) {
    const Tile tile{strip, stride, rows, (from.offset + first_query) % block, key, std::min(block, end - key)};
    keep_tile(job, tile, own, words);
  }
}

XM_SET bool keep_row(const MaskJob& job, const Row& row, Scratch& own) {
  switch (job.rule.kind) {
    case MaskKind::xm:
    case MaskKind::xm_causal:
      return keep_xm(job, row, own);
    case MaskKind::sanger:
      return keep_above_threshold(job, row);
    case MaskKind::topk:
      keep_largest(row.scores + row.allowed.first, row.allowed.end - row.allowed.first, job.rule.kept_high, row.words, row.allowed.first);
      return false;
    default:
      keep_nm(job, row);
      return false;
  }
}

// kTileRows rows of a KV head, of whichever query heads they are.
XM_SET void keep_rows(const MaskJob& job, int64_t part, int64_t parts_per_kv_head, Scratch& own) {
  const MaskScores& from = job.scores;
  const int64_t kv_head = part / parts_per_kv_head, first_row = part % parts_per_kv_head * kTileRows, stride = job.key_blocks() * 16;
  const int64_t rows = std::min(kTileRows, job.group_rows() - first_row);
  Range seen{from.keys, 0};
  for (int64_t row = 0; row < rows; ++row) {
    const Range allowed = allowed_keys(from, (first_row + row) % from.queries);
    seen = {std::min(seen.first, allowed.first), std::max(seen.end, allowed.end)};
  }
  const float* strip = score_rows(job, own, kv_head, first_row, rows, seen);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head_row = kv_head * job.group_rows() + first_row + row;
    const Row one{strip + row * stride, allowed_keys(from, (first_row + row) % from.queries), job.out.words + head_row * job.row_words()};
    job.out.doubtful[head_row] = keep_row(job, one, own);
  }
}

XM_SET void count_kept(const MaskJob& job, int64_t head) {
  const int64_t words = job.row_words();
  for (int64_t row = head * job.scores.queries; row < (head + 1) * job.scores.queries; ++row) {
    int32_t kept = 0;
    for (int64_t word = 0; word < words; ++word) kept += bit_count(job.out.words[row * words + word]);
    job.out.kept[row] = kept;
  }
}

void make_masks(const MaskJob& job, int threads) {
  const MaskScores& from = job.scores;
  for_parts(from.kv_heads * job.key_blocks(), threads, [&](int64_t part) { pack_keys(job, part, scratch()); });
  if (job.rule.kind == MaskKind::salo) {
    const int64_t tiles = (from.offset + from.queries - 1) / job.rule.block - from.offset / job.rule.block + 1;
    for_parts(from.heads * tiles, threads, [&](int64_t part) { keep_row_of_tiles(job, part, tiles, scratch()); });
  } else {
    const int64_t tiles = (job.group_rows() + kTileRows - 1) / kTileRows;
    for_parts(from.kv_heads * tiles, threads, [&](int64_t part) { keep_rows(job, part, tiles, scratch()); });
  }
  for_parts(from.heads, threads, [&](int64_t head) { count_kept(job, head); });
}
