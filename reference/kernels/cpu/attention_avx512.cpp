// Attention with AVX-512: vectors of sixteen floats, products of bf16 pairs and of bytes.
#include "attention.h"

#if XM_X86
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers start some intrinsics from an undefined register
#endif
XM_BEGIN_TARGET(XM_AVX512_SET)
#define XM_LANES 16
#include "attention_lanes.h"
#include "attention_rows.h"
#include "attention_tile.h"
#include "kv_scores.h"
#include "kv_select.h"
XM_END_TARGET

const xmsim::AttentionPath xmsim::avx512_attention{attend_part<float>, attend_part<Bf16>, predict_block, select_xm, select_top};
#endif
