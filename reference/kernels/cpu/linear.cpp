// Which path serves a call.
#include <type_traits>

#include "linear_paths.h"

namespace xmsim {
namespace {

// Below this many tokens a tile is mostly empty rows, and expanding into registers avoids the way through memory.
constexpr int64_t kTileTokens = 4;

// Of AMX; float16 came later than what isa.h asks for.
template <class E>
constexpr bool kInTiles = std::is_same_v<E, Bfloat16> || std::is_same_v<E, Int8>;

template <class E>
bool linear(const LinearCall& call) {
#if XM_X86
  if constexpr (kInTiles<E>)
    if (isa() >= Isa::amx && call.tokens >= kTileTokens) return linear_amx<E>(call);
  if (isa() >= Isa::avx512) return linear_avx512<E>(call);
  if (isa() >= Isa::avx2) return linear_avx2<E>(call);
#endif
  return linear_portable<E>(call);
}

}  // namespace
}  // namespace xmsim

// y [tokens, out] = x [tokens, in] times the packed weights, transposed, + bias; 0 if there was no memory. linear_format.h has the layouts.
XM_API int xm_linear(int form, int element, const void* bitmap, const void* values, const void* offsets, const void* inner_offsets,
                     const float* scales, const int32_t* column_sums, int64_t out_features, int64_t in_features, const void* x,
                     int x_element, int64_t tokens, const void* bias, void* y, int threads) {
  using namespace xmsim;
  const PackedWeights weights{out_features, in_features, static_cast<Form>(form), bitmap, values, offsets, inner_offsets, scales, column_sums};
  const LinearCall call{weights, x, static_cast<Element>(x_element), tokens, bias, y, threads};
  return with_element(static_cast<Element>(element), [&](auto e) { return linear<decltype(e)>(call); });
}

// The same for bfloat16 and int8 on emulated AMX tiles, whatever the processor.
XM_API int xm_linear_emulated_tiles(int form, int element, const void* bitmap, const void* values, const void* offsets,
                                    const void* inner_offsets, const float* scales, const int32_t* column_sums, int64_t out_features,
                                    int64_t in_features, const void* x, int x_element, int64_t tokens, const void* bias, void* y,
                                    int threads) {
  using namespace xmsim;
  const PackedWeights weights{out_features, in_features, static_cast<Form>(form), bitmap, values, offsets, inner_offsets, scales, column_sums};
  const LinearCall call{weights, x, static_cast<Element>(x_element), tokens, bias, y, threads};
  return static_cast<Element>(element) == Element::int8 ? linear_emulated_tiles<Int8>(call) : linear_emulated_tiles<Bfloat16>(call);
}
