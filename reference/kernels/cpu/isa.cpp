// What the processor offers (cpuid), what the operating system saves (xgetbv), and for AMX what it grants (arch_prctl).
#include "isa.h"

#include <atomic>

#if XM_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace xmsim {
namespace {

#if XM_X86
bool bit(unsigned word, int place) { return word >> place & 1; }

uint64_t saved_state() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool amx_granted() {
#if defined(__linux__)
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}

Isa detect() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::portable;
  const bool fma = bit(c, 12), popcnt = bit(c, 23), osxsave = bit(c, 27), f16c = bit(c, 29);
  if (!fma || !popcnt || !osxsave || !f16c) return Isa::portable;
  const uint64_t saved = saved_state();
  unsigned a7, b7, c7, d7;
  if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return Isa::portable;
  const bool bmi = bit(b7, 3), avx2 = bit(b7, 5), bmi2 = bit(b7, 8);
  const bool ymm_saved = (saved & 0x6) == 0x6;
  if (!bmi || !avx2 || !bmi2 || !ymm_saved) return Isa::portable;
  unsigned a71 = 0, b71 = 0, c71 = 0, d71 = 0;
  if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  const bool avx512 = bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31) &&  // F, DQ, BW, VL
                      bit(c7, 1) && bit(c7, 6) && bit(c7, 11) && bit(c7, 12) && bit(c7, 14) &&  // VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
                      bit(a71, 5);  // BF16
  const bool zmm_saved = (saved & 0xe6) == 0xe6;
  if (!avx512 || !zmm_saved) return Isa::avx2;
  const bool amx = bit(d7, 22) && bit(d7, 24) && bit(d7, 25);  // BF16, TILE, INT8
  const bool tiles_saved = (saved & 0x60000) == 0x60000;
  return amx && tiles_saved && amx_granted() ? Isa::amx : Isa::avx512;
}
#else
Isa detect() { return Isa::portable; }
#endif

Isa offered() {
  static const Isa found = detect();
  return found;
}

std::atomic<int> limit{static_cast<int>(Isa::amx)};

}  // namespace

Isa isa() {
  const int most = limit.load(std::memory_order_relaxed);
  return static_cast<int>(offered()) < most ? offered() : static_cast<Isa>(most);
}

}  // namespace xmsim

XM_API int xm_offered_isa() { return static_cast<int>(xmsim::offered()); }

XM_API int xm_isa() { return static_cast<int>(xmsim::isa()); }

// Use no set above this one, so that tests and benchmarks can run every path.
XM_API void xm_limit_isa(int most) { xmsim::limit.store(most, std::memory_order_relaxed); }
