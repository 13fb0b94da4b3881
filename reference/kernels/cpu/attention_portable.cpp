// Attention for any processor: vectors of four floats.
#include "attention.h"

#define XM_LANES 4
#include "attention_lanes.h"
#include "attention_rows.h"
#include "attention_tile.h"
#include "kv_scores.h"
#include "kv_select.h"

const xmsim::AttentionPath xmsim::portable_attention{attend_part<float>, attend_part<Bf16>, predict_block, select_xm, select_top};
