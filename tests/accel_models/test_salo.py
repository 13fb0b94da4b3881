import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.salo import Salo, published_model_v1
from xmsim.configs.errors import ConfigError
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

SHIPPED = load_accelerator("salo")


def with_keys(**changes):
    return Salo("other", SHIPPED.config.model_copy(update=changes))


def with_window(window, *, global_tokens=1, dilation=1, **changes):
    method = SHIPPED.config.method.model_copy(update={"window": window, "global_tokens": global_tokens, "dilation": dilation})
    return Salo("other", type(SHIPPED.config).model_validate(SHIPPED.config.model_dump() | {"method": method.model_dump()} | changes))


def allowed(queries, keys, causal):
    return np.arange(keys) <= np.arange(queries)[:, None] + keys - queries if causal else np.ones((queries, keys), bool)


def native(machine, heads, queries, keys, head_dim=64, *, causal=True, **options):
    scores = np.where(allowed(queries, keys, causal), np.float32(0), np.float32(-np.inf))
    keep = machine.pattern.keep(scores[None], kv_heads=1)
    return AttentionWorkload.from_keep(np.repeat(keep, heads, axis=0), head_dim=head_dim, causal=causal, **options)


def test_one_pass_is_the_published_one_between_its_loads_and_its_store():
    machine = with_window(32)
    result = machine.simulate(native(machine, 1, 32, 32))
    queries = 32 * 64 * 2 // 256  # 256 B/cycle
    keys = (32 + 1) * 64 * 2 * 2 / 256  # the global key has registers of its own
    load = int(np.ceil(queries + keys)) + 50  # 100 ns at 500 MHz
    published = published_model_v1(32, 32, 64, 1, pe_rows=32, pe_cols=32, pe_globals=1).cycles
    assert published == 195
    last_merge, read_out = 1, 64
    assert result.cycles == load + published + last_merge + read_out
    assert result.metrics == {"passes": 1, "coverage": 1.0}


@pytest.mark.parametrize(("tokens", "window", "heads"), [(96, 40, 2), (128, 64, 3), (100, 8, 1)])
def test_passes_that_never_wait_take_the_published_cycles(tokens, window, heads):
    machine = with_window(window, empty_passes="computed")
    result = machine.simulate(native(machine, heads, tokens, tokens))
    published = published_model_v1(tokens, window, 64 * heads, heads, pe_rows=32, pe_cols=32, pe_globals=1)
    assert result.metrics["passes"] == published.parts["passes"]
    assert result.busy["pe_array"] + 31 == published.cycles  # 31 of the tail's 32, as each pass is charged its flush


def test_the_array_waits_for_nothing_but_the_first_load():
    result = SHIPPED.simulate(native(SHIPPED, 4, 256, 256))
    assert result.idle["pe_array"]["starved"] == 0 and result.stalls["pe_array"] == {}
    assert result.cycles == result.idle["pe_array"]["fill"] + result.busy["pe_array"] + result.idle["pe_array"]["drain"]


def test_cycles_come_from_the_pattern_and_not_from_the_mask():
    sparse = AttentionWorkload.from_keep(np.eye(128, dtype=bool)[None], head_dim=64)
    assert SHIPPED.simulate(sparse).cycles == SHIPPED.simulate(native(SHIPPED, 1, 128, 128)).cycles


@pytest.mark.parametrize(("queries", "keys"), [(200, 200), (1, 200), (37, 200)])
@pytest.mark.parametrize("causal", [True, False])
def test_the_machines_own_mask_is_covered_and_another_in_part(queries, keys, causal):
    own = native(SHIPPED, 2, queries, keys, causal=causal)
    assert SHIPPED.metrics(own)["coverage"] == 1.0
    full = AttentionWorkload.from_keep(np.repeat(allowed(queries, keys, causal)[None], 2, axis=0), head_dim=64, causal=causal)
    assert SHIPPED.metrics(full)["coverage"] == own.kept_pairs().sum() / full.kept_pairs().sum()


def test_a_mask_that_keeps_nothing_is_covered():
    assert SHIPPED.metrics(AttentionWorkload.from_keep(np.zeros((1, 64, 64), bool), head_dim=64))["coverage"] == 1.0


def test_one_decoded_query_costs_the_passes_of_a_full_group():
    one, group = (SHIPPED.simulate(native(SHIPPED, 1, queries, 512)) for queries in (1, 32))
    assert one.busy["pe_array"] == 2 * 164  # 64 keys, 32 columns
    assert group.busy["pe_array"] == 2 * 164


def test_keys_that_fit_are_read_once_for_a_kv_head_those_of_a_window_for_each_head_else_for_each_pass():
    workload = native(SHIPPED, 4, 512, 512, kv_heads=2)
    key_bytes, query_bytes = 2 * 64 * 2, 4 * 512 * 64 * 2
    passes = SHIPPED.metrics(workload)["passes"]

    def read_bytes(held_keys):
        kv = SHIPPED.config.kv.model_copy(update={"buffer_bytes": held_keys * key_bytes})
        return with_keys(kv=kv).simulate(workload).traffic["dram"]["read_bytes"]

    window = 64 - 1 + 5 * 32
    assert read_bytes(512) == query_bytes + 2 * (512 + 1) * key_bytes
    assert read_bytes(511) == read_bytes(window) == query_bytes + 4 * (512 + 1) * key_bytes
    pass_keys = 5 * 63
    assert window < pass_keys  # here the keys of a window never need more room than those of the passes under way
    machine = with_window(512, kv={"buffer_bytes": pass_keys * key_bytes, "outstanding_loads": 4})
    streamed = machine.simulate(native(machine, 1, 512, 512))
    passes = machine.metrics(native(machine, 1, 512, 512))["passes"]
    assert 32 * passes < (streamed.traffic["dram"]["read_bytes"] - query_bytes // 4) / key_bytes <= 63 * passes + 1


def test_a_buffer_too_small_for_the_passes_under_way_is_refused_with_the_size_that_works():
    kv = SHIPPED.config.kv.model_copy(update={"buffer_bytes": 256})
    with pytest.raises(WorkloadError, match=r"kv\.buffer_bytes 256 holds 1 keys .* raise it to 57088") as refused:
        with_keys(kv=kv).simulate(native(SHIPPED, 1, 512, 512))
    enough = SHIPPED.config.kv.model_copy(update={"buffer_bytes": 57088})
    assert "57088" in str(refused.value) and with_keys(kv=enough).simulate(native(SHIPPED, 1, 512, 512)).cycles > 0


@settings(max_examples=30, deadline=None)
@given(
    keys=st.integers(1, 150),
    share=st.floats(0.01, 1.0),
    causal=st.booleans(),
    window=st.integers(1, 70),
    dilation=st.integers(1, 3),
    global_tokens=st.integers(0, 3),
    held_keys=st.sampled_from([400, 1000, 4000]),
)
def test_any_window_is_served_within_its_bounds(keys, share, causal, window, dilation, global_tokens, held_keys):
    machine = with_window(
        window, dilation=dilation, global_tokens=global_tokens, kv={"buffer_bytes": held_keys * 256, "outstanding_loads": 4}
    )
    queries = max(1, int(keys * share))
    workload = native(machine, 4, queries, keys, causal=causal, kv_heads=2)
    result = machine.simulate(workload)
    assert result.cycles == machine.simulate(workload, "event").cycles
    assert result.roofline_cycles <= result.cycles <= result.serial_cycles
    assert result.traffic["dram"]["write_bytes"] == 4 * queries * 64 * 2
    assert result.metrics["coverage"] == 1.0
    assert result.busy["pe_array"] == 164 * result.metrics["passes"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"name": "dense"}}, "serves a static window, not dense"),
        ({"pe_array": {"rows": 4, "columns": 4, "global_rows": 0, "global_columns": 1, "random_columns": 0}}, "need a global row"),
        ({"pe_array": {"rows": 4, "columns": 4, "global_rows": 1, "global_columns": 1, "random_columns": 2}}, "set it to 0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        type(SHIPPED.config).model_validate(SHIPPED.config.model_dump() | changes)


def test_a_fault_in_the_file_is_named_with_its_place(tmp_path):
    path = tmp_path / "mine.yaml"
    text = (load_accelerator.__globals__["find_config"]("accelerators", "salo", "machine")).read_text()
    path.write_text(text.replace("{bits: 9, point: 4,", "{bits: 9, point: 9,"))
    with pytest.raises(ConfigError, match=r"mine\.yaml:\d+:\d+: arithmetic: point: 9 fraction bits leave no sign"):
        load_accelerator(path)


def with_operands(machine, heads, queries, keys, *, causal=True, kv_heads=1, slopes=None, head_dim=64):
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((n, t, head_dim)).astype(np.float32) for n, t in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))
    operands = AttentionOperands(q, k, v, head_dim**-0.5, slopes)
    return native(machine, heads, queries, keys, head_dim, causal=causal, kv_heads=kv_heads, operands=operands)


WIDE = {"bits": 16, "point": 8, "exponent_bits": 6, "probability_point": 16, "reciprocal_point": 24, "weight_point": 24}


@pytest.mark.parametrize(("queries", "keys", "causal"), [(100, 100, True), (100, 100, False), (1, 100, True)])
def test_wide_words_leave_the_error_of_the_exponential_alone(queries, keys, causal):
    machine = Salo("wide", type(SHIPPED.config).model_validate(SHIPPED.config.model_dump() | {"arithmetic": WIDE}))
    assert machine.compute(with_operands(machine, 2, queries, keys, causal=causal)).error.relative < 0.005


def test_published_words_compute_attention_within_the_error_of_seven_bit_probabilities():
    result = SHIPPED.compute(with_operands(SHIPPED, 2, 128, 128))
    assert result.error.relative < 0.25
    assert result.error_to_dense.relative > result.error.relative


def test_alibi_is_refused():
    workload = with_operands(SHIPPED, 2, 16, 16, slopes=np.ones(2, np.float32))
    with pytest.raises(WorkloadError, match="adds no bias to scores"):
        SHIPPED.compute(workload)


@pytest.mark.parametrize("causal", [True, False])
def test_a_pattern_far_wider_than_the_sequence_costs_what_one_that_covers_it_does(causal):
    workload = native(with_window(100), 2, 100, 100, causal=causal)
    wide = with_window(2**31 - 1).simulate(workload)
    assert wide.metrics["coverage"] == 1.0
    assert wide.traffic == with_window(100).simulate(workload).traffic
    assert wide.metrics["passes"] <= 2 * 4 * (4 + 3)  # 4 groups, and pieces of 32 that lie in 100 keys, or on an edge of them or a group
    alone = with_window(8, dilation=2**31 - 1).simulate(workload)
    assert alone.cycles == with_window(8, dilation=100).simulate(workload).cycles


def test_a_window_of_more_passes_than_can_be_computed_is_refused_where_empty_ones_are():
    with pytest.raises(ValueError, match=r"method.window: 2000000 keys to each side take 125000 .* or set empty_passes to skipped"):
        with_window(2_000_000, empty_passes="computed")


def test_a_global_query_is_read_again_from_its_own_place():
    workload = native(SHIPPED, 2, 70, 70, causal=False)
    schedule = SHIPPED.schedule(workload)
    loads = schedule.visit_address[schedule.visit_stage == 0].reshape(2, 4)  # [heads, 3 groups and the global query]
    row_bytes, head_bytes = 64 * 2, 70 * 64 * 2
    assert (loads == np.array([[0, 32, 64, 0]]) * row_bytes + np.array([[0], [1]]) * head_bytes).all()
