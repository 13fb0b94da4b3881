// Attention with AVX2: vectors of eight floats.
#include "attention.h"

#if XM_X86
XM_BEGIN_TARGET(XM_AVX2_SET)
#define XM_LANES 8
#include "attention_lanes.h"
#include "attention_rows.h"
#include "attention_tile.h"
#include "kv_scores.h"
#include "kv_select.h"
XM_END_TARGET

const xmsim::AttentionPath xmsim::avx2_attention{attend_part<float>, attend_part<Bf16>, predict_block, select_xm, select_top};
#endif
