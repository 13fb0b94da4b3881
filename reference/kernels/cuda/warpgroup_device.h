// Products of a warpgroup, on the GPU.
#pragma once

// the sums as operands of assembly: the first 32, and the next 32
#define XM_FIRST_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "               \
  "%26, %27, %28, %29, %30, %31"
#define XM_NEXT_32 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "               \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define XM_FOUR(sums, n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
#define XM_SIXTEEN(sums, n) XM_FOUR(sums, n), XM_FOUR(sums, n + 1), XM_FOUR(sums, n + 2), XM_FOUR(sums, n + 3)
#define XM_32(sums) XM_SIXTEEN(sums, 0), XM_SIXTEEN(sums, 4)
#define XM_64(sums) XM_32(sums), XM_SIXTEEN(sums, 8), XM_SIXTEEN(sums, 12)

// After the sums: A (its descriptor, or registers), the descriptor of B, whether it is added to the sums, the signs of A and B, and whether
// products are summed down the columns of tiles (of A if it has a descriptor, of B).
#define XM_SHARED_PRODUCT(type, sums, a, b, adds)                                                                                          \
  asm volatile(                                                                                                                            \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n.reg .b64 a, b;\nmov.b64 a, {%32, %35};\nmov.b64 b, {%33, %35};\n"                  \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" XM_FIRST_32 "}, a, b, adds, 1, 1, 0, 0;\n}"                         \
      : XM_32(sums)                                                                                                                        \
      : "r"(a), "r"(b), "n"(adds ? 1 : 0), "r"(kOperandUpper))
#define XM_ROWS_PRODUCT_64(type, sums, a, b)                                                                                               \
  asm volatile(                                                                                                                            \
      "{\n.reg .pred adds;\nsetp.eq.b32 adds, 0, 0;\n.reg .b64 b;\nmov.b64 b, {%36, %37};\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" XM_FIRST_32 "}, {%32, %33, %34, %35}, b, adds, 1, 1, 1;\n}"         \
      : XM_32(sums)                                                                                                                        \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(kOperandUpper))
#define XM_ROWS_PRODUCT_128(type, sums, a, b)                                                                                              \
  asm volatile(                                                                                                                            \
      "{\n.reg .pred adds;\nsetp.eq.b32 adds, 0, 0;\n.reg .b64 b;\nmov.b64 b, {%68, %69};\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                                                         \
      " {" XM_FIRST_32 ", " XM_NEXT_32 "}, {%64, %65, %66, %67}, b, adds, 1, 1, 1;\n}"                                                     \
      : XM_64(sums)                                                                                                                        \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(kOperandUpper))

namespace xmsim {

XM_DEVICE uint32_t shared_address(const void* place) { return static_cast<uint32_t>(__cvta_generic_to_shared(place)); }

XM_DEVICE void share_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// By all threads of a warpgroup, in one branch of a block that was compiled for as many registers as its threads can have on average.
template <int registers>
XM_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers>
XM_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// The compiler knows no registers that change later: it is told that these may change here, so that no use moves across.
template <int kEights>
XM_DEVICE void hold(float (&sums)[kEights][4]) {
  XM_UNROLL(16)
  for (int n = 0; n < kEights; ++n) {
    XM_UNROLL(4)
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(sums[n][e])::"memory");
  }
}

template <int kSteps>
XM_DEVICE void hold(uint32_t (&rows)[kSteps][4]) {
  XM_UNROLL(4)
  for (int step = 0; step < kSteps; ++step) {
    XM_UNROLL(4)
    for (int r = 0; r < 4; ++r) asm volatile("" : "+r"(rows[step][r])::"memory");
  }
}

template <class... Registers>
XM_DEVICE void wgmma_fence(Registers&... registers) {
  (hold(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

template <class Element, bool kAdds>
XM_DEVICE void wgmma_shared(float (&sums)[8][4], uint32_t a, uint32_t b) {
  if constexpr (Element::kHalf) {
    XM_SHARED_PRODUCT("f16", sums, a, b, kAdds);
  } else {
    XM_SHARED_PRODUCT("bf16", sums, a, b, kAdds);
  }
}

template <class Element>
XM_DEVICE void wgmma_rows(float (&sums)[8][4], const uint32_t (&a)[4], uint32_t b) {
  if constexpr (Element::kHalf) {
    XM_ROWS_PRODUCT_64("f16", sums, a, b);
  } else {
    XM_ROWS_PRODUCT_64("bf16", sums, a, b);
  }
}

template <class Element>
XM_DEVICE void wgmma_rows(float (&sums)[16][4], const uint32_t (&a)[4], uint32_t b) {
  if constexpr (Element::kHalf) {
    XM_ROWS_PRODUCT_128("f16", sums, a, b);
  } else {
    XM_ROWS_PRODUCT_128("bf16", sums, a, b);
  }
}

XM_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int groups, int kEights>
XM_DEVICE void wgmma_wait(float (&sums)[kEights][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
  hold(sums);
}

// ptxas moves a wait up to where products were started, past all that needs no product, but not across a branch.
template <int groups, int kEights>
XM_DEVICE void wgmma_wait(float (&sums)[kEights][4], float before) {
  asm volatile("{ .reg .pred p; setp.lt.f32 p, %0, 0f00000000; @p trap; }" ::"f"(before) : "memory");
  wgmma_wait<groups>(sums);
}

}  // namespace xmsim
