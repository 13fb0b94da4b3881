import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.salo import published_model_v2
from xmsim.accel_models.salo_matching import (
    MatchingConfig,
    matching_latency_cycles,
    matching_period_cycles,
    pattern_record_bytes,
    scoring_cycles,
    sorting_cycles,
)
from xmsim.accel_models.salo_v2 import SaloV2, block_passes
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

SHIPPED = load_accelerator("salo_v2")


def with_keys(**changes):
    return SaloV2("other", SHIPPED.config.model_copy(update=changes))


def native(heads, queries, keys, head_dim=64, *, causal=True, seed=0, **options):
    scores = np.random.default_rng(seed).standard_normal((heads, queries, keys)).astype(np.float32)
    if causal:
        scores[:, np.arange(keys) > np.arange(queries)[:, None] + keys - queries] = -np.inf
    keep = SHIPPED.pattern.keep(scores, kv_heads=heads)
    return AttentionWorkload.from_keep(keep, head_dim=head_dim, causal=causal, **options)


def matching():
    return MatchingConfig(bits=4, sorted_keys=4, key_buffer_bytes=1, pattern_buffer_blocks=1)


def test_one_block_takes_its_stages_one_after_the_other():
    result = SHIPPED.simulate(native(1, 64, 64))
    queries, low_bit_keys, keys_and_values = (size // 128 + 100 for size in (64 * 64 * 2, 64 * 64 // 2, 2 * 64 * 64 * 2))
    scores, window, sorting, sorter = 66, 129, 66, 15
    assert matching_latency_cycles(64, matching()) == scores + window + sorting + sorter
    published = published_model_v2(64, 8, 64, 1).cycles
    assert published == 2 * 64 + 2 + 11
    last_merge, read_out = 1, 64
    match = scores + window + sorting + sorter
    assert result.cycles == queries + low_bit_keys + match + keys_and_values + published + last_merge + read_out
    assert result.metrics == {"passes": 1, "coverage": 1.0}


@pytest.mark.parametrize(("tokens", "heads"), [(128, 2), (512, 3)])
def test_passes_that_never_wait_take_the_published_cycles(tokens, heads):
    result = SHIPPED.simulate(native(heads, tokens, tokens, causal=False))
    published = published_model_v2(tokens, 8, 64 * heads, heads)
    assert result.metrics["passes"] == published.parts["passes"]
    assert result.busy["pe_array"] + 10 == published.cycles  # 10 of the tail's 11, as each pass is charged its flush
    assert result.cycles < published.cycles + 1000  # load, matching and store of one block, and no more


def test_matching_keeps_the_published_pace_unless_the_sorter_is_slower():
    assert matching_period_cycles(128) == scoring_cycles(128) == 130
    assert matching_period_cycles(32) == sorting_cycles() == 66


def test_free_patterns_take_no_cycles_and_no_keys():
    workload = native(2, 256, 256)
    simulated, free = SHIPPED.simulate(workload), with_keys(prediction_phase="free").simulate(workload)
    assert free.cycles < simulated.cycles
    assert simulated.busy["matching"] == 2 * 10 * 66 and free.busy["matching"] == 0
    low_bit_keys = 2 * 256 * 64 // 2
    assert simulated.traffic["dram"]["read_bytes"] - free.traffic["dram"]["read_bytes"] == low_bit_keys
    assert free.busy["pe_array"] == simulated.busy["pe_array"]


def test_blocks_above_the_diagonal_are_skipped_or_computed():
    workload = native(1, 256, 256)
    skipped, computed = SHIPPED.simulate(workload), with_keys(causal_tiles="computed").simulate(workload)
    assert skipped.busy["pe_array"] == 10 * 131 and computed.busy["pe_array"] == 16 * 131
    assert skipped.metrics["passes"] == 10 and computed.metrics["passes"] == 16
    assert computed.busy["matching"] == 16 * 66


def test_a_block_that_keeps_nothing_is_matched_and_not_computed():
    keep = np.zeros((1, 128, 128), bool)
    keep[0, 70, 3] = True
    result = SHIPPED.simulate(AttentionWorkload.from_keep(keep, head_dim=64))
    assert result.busy["matching"] == 3 * 66 and result.busy["pe_array"] == 131
    assert result.traffic["dram"]["read_bytes"] == 2 * 128 * 64 + 128 * 64 // 2 + 2 * 2 * 64 * 64


def test_dead_blocks_of_a_bidirectional_mask_are_skipped_wherever_they_lie():
    keep = np.kron(np.eye(3, dtype=bool), np.ones((64, 64), bool))[None]
    result = SHIPPED.simulate(AttentionWorkload.from_keep(keep, head_dim=64, causal=False))
    assert result.busy["matching"] == 9 * 66 and result.busy["pe_array"] == 3 * 131


def test_one_decoded_query_costs_a_pass_of_every_block():
    result = SHIPPED.simulate(native(2, 1, 300, kv_heads=1))
    assert result.busy["pe_array"] == 2 * 5 * 131
    assert result.metrics["coverage"] == 1.0


def test_blocks_lie_at_multiples_of_64_positions_also_where_queries_begin_between():
    result = SHIPPED.simulate(native(1, 40, 100))  # queries 60 to 99: 4 of the first tile, 36 of the second
    assert result.metrics["passes"] == 1 + 2


@pytest.mark.parametrize(("queries", "keys", "causal"), [(200, 200, True), (200, 200, False), (1, 200, True), (70, 300, True)])
def test_the_machines_own_mask_is_covered_and_a_denser_one_in_part(queries, keys, causal):
    assert SHIPPED.metrics(native(2, queries, keys, causal=causal))["coverage"] == 1.0
    full = AttentionWorkload.from_keep(native(1, queries, keys, causal=causal).allowed()[None], head_dim=64, causal=causal)
    assert SHIPPED.metrics(full)["coverage"] < 0.5


def test_resident_keys_are_read_once_for_a_kv_head_and_streamed_ones_for_every_block():
    workload = native(4, 256, 256, causal=False, kv_heads=2)
    queries, low_bit, block = 2 * 4 * 256 * 64, 2 * 256 * 64 // 2, 2 * 2 * 64 * 64
    assert SHIPPED.simulate(workload).traffic["dram"]["read_bytes"] == queries + low_bit + 2 * 4 * block

    def read_bytes(buffer_bytes):
        kv = SHIPPED.config.kv.model_copy(update={"buffer_bytes": buffer_bytes})
        return with_keys(kv=kv).simulate(workload).traffic["dram"]["read_bytes"]

    assert read_bytes(4 * block) == queries + low_bit + 2 * 4 * block
    assert read_bytes(4 * block - 1) == queries + low_bit + 4 * 4 * 4 * block
    keys_streamed = SHIPPED.config.matching.model_copy(update={"key_buffer_bytes": 1})
    streamed = with_keys(matching=keys_streamed).simulate(workload).traffic["dram"]["read_bytes"]
    assert streamed == queries + 4 * 4 * 256 * 64 // 2 + 2 * 4 * block


def test_one_place_for_streamed_blocks_loads_them_one_at_a_time():
    workload = native(1, 256, 256)
    kv = SHIPPED.config.kv.model_copy(update={"buffer_bytes": 2 * 2 * 64 * 64})
    slow = with_keys(kv=kv).simulate(workload)
    assert slow.cycles > 10 * (228 + 131)  # load, then pass, of ten blocks
    assert slow.traffic["dram"]["read_bytes"] > SHIPPED.simulate(workload).traffic["dram"]["read_bytes"]


def test_a_buffer_smaller_than_a_block_is_refused_with_the_size_that_works():
    kv = SHIPPED.config.kv.model_copy(update={"buffer_bytes": 16383})
    with pytest.raises(WorkloadError, match=r"kv\.buffer_bytes is 16383; raise it to 16384"):
        with_keys(kv=kv).simulate(native(1, 64, 64))


def test_a_global_row_as_wired_takes_a_pass_for_each_piece_of_its_block():
    array, pattern = SHIPPED.config.pe_array, SHIPPED.pattern
    assert block_passes(64, pattern, array, "free") == 1
    assert block_passes(64, pattern, array, "wired") == 8
    assert block_passes(1, pattern, array, "wired") == 1  # a lone row is never global
    wired = with_keys(global_row="wired").simulate(native(1, 128, 128, causal=False))
    assert wired.metrics["passes"] == 4 * 8 and wired.busy["pe_array"] == 4 * 8 * 131


def test_a_smaller_array_takes_more_passes():
    array = SHIPPED.config.pe_array.model_copy(update={"rows": 32, "columns": 4})
    assert block_passes(64, SHIPPED.pattern, array, "free") == 2 * 2
    assert block_passes(20, SHIPPED.pattern, array, "free") == 2


def test_the_record_of_a_pattern_holds_its_indices():
    assert pattern_record_bytes(picks=3, global_lines=1) == -(-(7 + 6 + 6 + 64 * 3 * 6) // 8)


@pytest.mark.parametrize("engine", ["compiled", "event"])
def test_engines_agree_on_a_layer(engine):
    workload = native(4, 150, 300, kv_heads=2)
    assert SHIPPED.simulate(workload, engine).cycles == SHIPPED.simulate(workload).cycles


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"name": "dense"}}, "serves block patterns, not dense"),
        ({"method": {"name": "salo", "block": 32}}, "set it to 64"),
        ({"method": {"name": "salo", "global_tokens": 2}}, "set it to 1 or 0"),
        ({"method": {"name": "salo", "dilation": 10}}, "lower it to 7"),
        ({"pe_array": {"rows": 64, "columns": 8, "global_rows": 1, "global_columns": 1, "random_columns": 0}}, "method.picks is 3"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        type(SHIPPED.config).model_validate(SHIPPED.config.model_dump() | changes)


def with_operands(heads, queries, keys, *, causal=True, kv_heads=1, head_dim=64):
    draw = np.random.default_rng(1)
    q, k, v = (draw.standard_normal((n, t, head_dim)).astype(np.float32) for n, t in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))
    return native(heads, queries, keys, head_dim, causal=causal, kv_heads=kv_heads, operands=AttentionOperands(q, k, v, head_dim**-0.5))


def test_wide_words_leave_the_error_of_the_exponential_alone():
    wide = {"bits": 16, "point": 8, "exponent_bits": 6, "weight_point": 24}
    machine = SaloV2("wide", type(SHIPPED.config).model_validate(SHIPPED.config.model_dump() | {"arithmetic": wide}))
    for queries, keys, causal in ((150, 150, True), (150, 150, False), (1, 150, True)):
        assert machine.compute(with_operands(2, queries, keys, causal=causal)).error.relative < 0.01


def test_published_words_compute_attention_within_a_few_per_cent():
    result = SHIPPED.compute(with_operands(2, 256, 256))
    assert result.error.relative < 0.06
    assert result.error_to_dense.relative > result.error.relative


def test_more_patterns_ahead_than_any_buffer_holds_are_refused():
    with pytest.raises(ValueError, match="pattern_buffer_blocks"):
        matching().model_validate(matching().model_dump() | {"pattern_buffer_blocks": 2**31 - 1})
