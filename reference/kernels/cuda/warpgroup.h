// Products of a warpgroup (four warps, from a multiple of 128 threads on) on Hopper's tensor cores: wgmma. They read their right operand
// from shared memory, their left one from there or from registers, and run on while the threads go on.
//
//   wgmma_fence(sums, rows...);              these registers, sums and left operands, that were written before are final
//   wgmma_shared<Element, adds>(sums, a, b); sums (+)= A B^T, rows of A [64, 16] and B [64, 16] in shared memory
//   wgmma_rows<Element>(sums, a, b);         sums += A B, A [64, 16] in registers, 16 rows a warp; B [16, 64 or 128] in shared memory
//   wgmma_commit();                          closes a group of products
//   wgmma_wait<0>(sums);                     until at most so many groups are under way; sums are not to be touched before
//   wgmma_wait<0>(sums, number);             likewise, and not before a number is computed, which is not negative
//   give_registers<32>(), take_registers<160>()     how many registers each thread of this warpgroup has from here on
//
// Who holds which of the sums, and of A in registers, is as in mma m16n8k16 (fragments.h): warp w has rows 16 w to 16 w + 15.
// Operands are tiles of 64 numbers of 16 bits a row, 128 bytes, whose eight parts of 16 bytes are swapped by the number of the row
// (tile_place). What cp_async brought is seen by products after share_copies, called by the thread that waited, and a barrier.
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

#include "simt.h"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define XM_HOPPER  // the code is compiled for a GPU that has wgmma, or for the emulator
#endif

namespace xmsim {

constexpr int kGroupThreads = 128;
constexpr int kTileColumns = 64;                  // numbers of a row of an operand's tile
constexpr int kEightRows = 8 * 2 * kTileColumns;  // bytes, after which the swaps repeat
constexpr int kTileAlignment = kEightRows;        // of a tile in shared memory

// Which number of a tile the first of 16 bytes is.
XM_BOTH int tile_place(int row, int part) { return row * kTileColumns + 8 * (part ^ (row % 8)); }

// An operand that lies in tiles, as products are told of it, but for the upper half, which is the same for all. Lower half: bits 0-13 where
// it starts, 16-29 a distance. Upper half: bits 0-13 from eight rows to the next; 17-19 zero, as tiles start where swaps repeat; 30-31 how
// parts are swapped. All in units of 16 bytes.
constexpr uint32_t kOperandUpper = 1u << 30 | kEightRows >> 4;

// The distance is `panel` bytes from 64 columns to the next 64, where sums go down columns ("MN-major"); along rows ("K-major") it is not
// used, and to be 1.
XM_BOTH uint32_t operand(uint32_t address, int panel = 16) { return address >> 4 | static_cast<uint32_t>(panel >> 4) << 16; }

// The same from so many bytes further on.
XM_BOTH uint32_t further(uint32_t operand, int bytes) { return operand + static_cast<uint32_t>(bytes >> 4); }

}  // namespace xmsim

#ifdef __CUDACC__
#include "warpgroup_device.h"
#else
#include "warpgroup_host.h"
#endif
