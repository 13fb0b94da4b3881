// Which element of a matrix a lane holds in the operands of mma (PTX ISA, "Matrix Fragments for mma.m16n8k16" and ".m16n8k32").
// A register holds neighbours: two numbers of 16 bits, or four of 8 bits, the first of them lowest.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define XM_BOTH static __host__ __device__ __forceinline__
#else
#define XM_BOTH static inline
#endif

namespace xmsim {

// of A [16, K], K = 16 numbers of 16 bits or 32 of 8: row of register r of a lane, and the column of the first number in it
XM_BOTH int a_row(int lane, int r) { return lane / 4 + 8 * (r % 2); }
XM_BOTH int a_column(int lane, int r, int numbers) { return lane % 4 * numbers + 4 * numbers * (r / 2); }

// of B [K, 8]: the row of the first number in register r, numbers below each other, and the column
XM_BOTH int b_row(int lane, int r, int numbers) { return lane % 4 * numbers + 4 * numbers * r; }
XM_BOTH int b_column(int lane) { return lane / 4; }

// of the sums [16, 8]: row and column of element i
XM_BOTH int sum_row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
XM_BOTH int sum_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

}  // namespace xmsim
