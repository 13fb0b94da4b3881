// Instruction sets: how a function is compiled for one, and which one this process may use.
#pragma once

#include <cstdint>

#define XM_API extern "C" __attribute__((visibility("default")))
#define XM_INLINE static inline __attribute__((always_inline))

#if !defined(XM_X86) && defined(__x86_64__)
#define XM_X86 1
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 says so of its own undefined registers (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#define XM_AVX2_SET "avx2,fma,f16c,bmi,bmi2,popcnt"
#define XM_AVX512_SET \
  XM_AVX2_SET ",avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16,avx512vpopcntdq,avx512bitalg"
// before a function: compile it for this set, whatever the rest of the file is compiled for. A lambda does not inherit it.
#define XM_AVX2 __attribute__((target(XM_AVX2_SET)))
#define XM_AVX512 __attribute__((target(XM_AVX512_SET)))
#else
#define XM_X86 0
#endif

namespace xmsim {

// Ascending: each may use what the ones before it offer.
enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

// The highest set that processor and operating system grant, or less if xm_limit_isa said so.
Isa isa();

}  // namespace xmsim
