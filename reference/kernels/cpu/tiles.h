// AMX tile operations, twice with one face: the processor's, and a model of them for processors that have none.
//
// Eight registers of up to 16 rows of 64 bytes; register numbers are template arguments, as they are part of the instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa.h"

namespace xmsim {

constexpr int kTileRegisters = 8, kTileRegisterRows = 16, kTileRowBytes = 64;

#if XM_X86
// Assembly of our own: the intrinsics of some compilers do not say that memory is read and written, and stores before a tile load, or the
// configuration itself, were lost. No other code touches tile registers, so none need be listed as overwritten.
class NativeTiles {
 public:
  // rows[i]: of register i, 64 bytes each. All registers become zero.
  explicit NativeTiles(const uint8_t (&rows)[kTileRegisters]) {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64, "the format of LDTILECFG");
    for (int i = 0; i < kTileRegisters; ++i) config.row_bytes[i] = rows[i] ? kTileRowBytes : 0, config.rows[i] = rows[i];
    __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  ~NativeTiles() { __asm__ volatile("tilerelease" ::: "memory"); }
  NativeTiles(const NativeTiles&) = delete;
  NativeTiles& operator=(const NativeTiles&) = delete;

  template <int kTo>
  void load(const void* from, int64_t stride_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(kTo) : "memory");
  }
  template <int kFrom>
  void store(void* to, int64_t stride_bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(kFrom) : "memory");
  }
  template <int kSum, int kA, int kB>
  void add_bfloat16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
  template <int kSum, int kA, int kB>
  void add_int8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
};
#endif

// The same, bit for bit, after the pseudo-code of the instructions: sums of even and of odd elements are kept apart by fused
// multiply-adds from zero, added, and added to the destination; subnormal inputs and results are zero (of their sign), ties go to even.
class EmulatedTiles {
 public:
  explicit EmulatedTiles(const uint8_t (&rows)[kTileRegisters]) {
    for (int i = 0; i < kTileRegisters; ++i) tiles_[i].rows = rows[i];
  }

  template <int kTo>
  void load(const void* from, int64_t stride_bytes) {
    Tile& to = tiles_[kTo];
    for (int row = 0; row < to.rows; ++row) std::memcpy(to.words[row], static_cast<const char*>(from) + row * stride_bytes, kTileRowBytes);
  }
  template <int kFrom>
  void store(void* to, int64_t stride_bytes) {
    const Tile& from = tiles_[kFrom];
    for (int row = 0; row < from.rows; ++row) std::memcpy(static_cast<char*>(to) + row * stride_bytes, from.words[row], kTileRowBytes);
  }
  template <int kSum, int kA, int kB>
  void add_bfloat16() {
    const Tile &a = tiles_[kA], &b = tiles_[kB];
    for (int row = 0; row < tiles_[kSum].rows; ++row)
      for (int column = 0; column < kWords; ++column) {
        float even = 0, odd = 0;
        for (int k = 0; k < b.rows; ++k) {
          even = flushed(std::fma(low(a.words[row][k]), low(b.words[k][column]), even));
          odd = flushed(std::fma(high(a.words[row][k]), high(b.words[k][column]), odd));
        }
        uint32_t& sum = tiles_[kSum].words[row][column];
        sum = bits(flushed(flushed(number(sum)) + flushed(even + odd)));
      }
  }
  template <int kSum, int kA, int kB>
  void add_int8() {
    const Tile &a = tiles_[kA], &b = tiles_[kB];
    for (int row = 0; row < tiles_[kSum].rows; ++row)
      for (int column = 0; column < kWords; ++column)
        for (int k = 0; k < b.rows; ++k)
          for (int shift = 0; shift < 32; shift += 8)
            tiles_[kSum].words[row][column] += static_cast<uint32_t>(static_cast<int8_t>(a.words[row][k] >> shift) *
                                                                      static_cast<int8_t>(b.words[k][column] >> shift));
  }

 private:
  static constexpr int kWords = kTileRowBytes / 4;
  struct Tile {
    int rows = 0;
    uint32_t words[kTileRegisterRows][kWords] = {};
  };

  static float number(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static uint32_t bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }
  static float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value; }
  static float low(uint32_t pair) { return flushed(number(pair << 16)); }
  static float high(uint32_t pair) { return flushed(number(pair & 0xffff0000)); }

  Tile tiles_[kTileRegisters];
};

}  // namespace xmsim
