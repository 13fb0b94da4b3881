"""What the stages and units of any machine are for, so that machines whose parts have different names can be compared."""

from __future__ import annotations

LOAD = "load"
PREDICT = "predict"
EXECUTE = "execute"
SOFTMAX = "softmax"
STORE = "store"
BUFFERS = "buffers"
DRAM = "DRAM"
OTHER = "other"
PHASES = (LOAD, PREDICT, EXECUTE, SOFTMAX, STORE, BUFFERS, DRAM, OTHER)

STAGES = {  # stage of a Schedule: phase
    "load": LOAD,
    "query_load": LOAD,
    "key_load": LOAD,
    "kv_load": LOAD,
    "predictor": PREDICT,
    "predictor_drain": PREDICT,
    "decision": PREDICT,
    "scheduler": PREDICT,
    "pack": PREDICT,
    "matching": PREDICT,
    "matching_drain": PREDICT,
    "execute": EXECUTE,
    "pe_array": EXECUTE,
    "execute_drain": EXECUTE,
    "softmax": SOFTMAX,
    "divider": SOFTMAX,
    "weighted_sum": SOFTMAX,
    "store": STORE,
}
UNITS = {  # unit of an energy estimate: phase
    "prediction_array": PREDICT,
    "top_k": PREDICT,
    "threshold": PREDICT,
    "decision": PREDICT,
    "matching_array": PREDICT,
    "window_search": PREDICT,
    "sorter": PREDICT,
    "key_buffer": PREDICT,  # low-bit keys
    "index_buffer": PREDICT,  # what the prediction says
    "mask_buffer": PREDICT,
    "pattern_buffer": PREDICT,
    "execute_array": EXECUTE,
    "pe_array": EXECUTE,
    "accumulator": EXECUTE,
    "divider": SOFTMAX,
    "softmax_unit": SOFTMAX,
    "weighted_sum": SOFTMAX,
    "query_buffer": BUFFERS,
    "kv_buffer": BUFFERS,
    "score_buffer": BUFFERS,
    "output_buffer": BUFFERS,
    "dram": DRAM,
}


def stage_phase(stage: str) -> str:
    """The phase of a stage; a machine of one's own may have stages of other names."""
    return STAGES.get(stage, OTHER)


def unit_phase(unit: str) -> str:
    return UNITS.get(unit, OTHER)
