// Products of a warpgroup, on the CPU: each thread makes its own sums, from what the descriptors name in the block's shared memory.
#pragma once

#include <cstdlib>
#include <limits>

namespace xmsim {

XM_DEVICE uint32_t shared_address(const void* place) { return emulator::shared_address(place); }
XM_DEVICE void share_copies() { emulator::share_copies(); }

template <int>
XM_DEVICE void give_registers() {}
template <int>
XM_DEVICE void take_registers() {}

template <class... Registers>
XM_DEVICE void wgmma_fence(Registers&...) {
  emulator::wait_for_group();
  emulator::order_products();
}

XM_DEVICE void wgmma_commit() { emulator::close_products(); }

template <int groups, int kEights>
XM_DEVICE void wgmma_wait(float (&)[kEights][4]) {
  emulator::finish_products(groups);
}

template <int groups, int kEights>
XM_DEVICE void wgmma_wait(float (&sums)[kEights][4], float before) {
  if (before < 0) std::abort();
  wgmma_wait<groups>(sums);
}

// A matrix in shared memory as its descriptor has it: numbers of 16 bits, parts of 16 bytes swapped in rows of 128 bytes.
template <class Element>
struct SharedMatrix {
  uint32_t operand;  // the lower half of its descriptor
  bool sums_down;    // the numbers of a sum lie in different rows

  float at(int outer, int inner) const {
    const uint64_t descriptor = static_cast<uint64_t>(kOperandUpper) << 32 | operand;
    const auto length = [&](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
    const uint32_t start = length(0), leading = length(16), stride = length(32);
    const bool supported = descriptor >> 62 == 1 && !(descriptor >> 49 & 7);
    const uint32_t place = sums_down ? start + outer % 64 * 2 + outer / 64 * leading + inner % 8 * 128 + inner / 8 * stride
                                     : start + outer % 8 * 128 + outer / 8 * stride + inner * 2;
    const unsigned char* bytes = supported ? emulator::bytes_of_products(place ^ (place >> 7 & 7) << 4) : nullptr;
    if (!bytes) return std::numeric_limits<float>::quiet_NaN();
    uint16_t bits;
    std::memcpy(&bits, bytes, 2);
    return Element::kHalf ? half_value(bits) : float_of_bits(static_cast<uint32_t>(bits) << 16);
  }
};

// sums (+)= A B, later; `left(half, k)` is number k of the thread's first or second row of A.
template <class Element, int kEights, class Left>
XM_DEVICE void product_later(float (&sums)[kEights][4], bool adds, const SharedMatrix<Element>& b, Left left) {
  const int own = lane();
  emulator::product_later(&sums[0][0], 4 * kEights, adds, [=](float* products) {
    for (int n = 0; n < kEights; ++n) {
      for (int e = 0; e < 4; ++e) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left(e / 2, k) * b.at(8 * n + sum_column(own, e), k);
        products[4 * n + e] = sum;
      }
    }
  });
}

template <class Element, bool kAdds>
XM_DEVICE void wgmma_shared(float (&sums)[8][4], uint32_t a, uint32_t b) {
  const SharedMatrix<Element> left = {a, false};
  const int first = warp() % 4 * 16 + lane() / 4;
  emulator::wait_for_group();
  product_later(sums, kAdds, SharedMatrix<Element>{b, false}, [=](int half, int k) { return left.at(first + 8 * half, k); });
}

template <class Element, int kEights>
XM_DEVICE void wgmma_rows(float (&sums)[kEights][4], const uint32_t (&a)[4], uint32_t b) {
  struct Words {
    uint32_t of[4];
  } mine;
  struct Numbers {
    float of[2][16];
  };
  std::memcpy(mine.of, a, sizeof mine.of);
  const int own = lane();
  const Numbers rows = emulator::exchange(mine, [&](auto of) {
    Numbers found;
    for (int holder = own / 4 * 4; holder < own / 4 * 4 + 4; ++holder) {
      const Words words = of(holder);
      for (int r = 0; r < 4; ++r) {
        for (int i = 0; i < 2; ++i) {
          const uint32_t bits = words.of[r] >> 16 * i & 0xffff;
          found.of[a_row(holder, r) / 8][a_column(holder, r, 2) + i] =
              Element::kHalf ? half_value(static_cast<uint16_t>(bits)) : float_of_bits(bits << 16);
        }
      }
    }
    return found;
  });
  emulator::wait_for_group();
  product_later(sums, true, SharedMatrix<Element>{b, true}, [=](int half, int k) { return rows.of[half][k]; });
}

}  // namespace xmsim
