"""Masks and weight bitmaps that are stored with a trace: found again, whole or not at all, and no part of its identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmsim.traces.bits import pack, unpack
from xmsim.traces.errors import TraceError
from xmsim.traces.manifest import Manifest, mask_file_name, weights_file_name
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import Maker, TraceWriter

Write = Callable[..., Trace]
PARAMETERS = {"method": "topk", "kept": 2, "prediction": None}
MAKER = Maker("native", "avx2", 0.25)


def words(seed: int = 0) -> np.ndarray:
    """Two windows of four heads of six tokens."""
    return np.random.default_rng(seed).integers(0, 64, (2, 4, 6, 1), np.uint64)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_unpacking_undoes_packing(count: int):
    bits = np.random.default_rng(count).random((3, count)) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits), count), bits)
    assert pack(bits).shape == (3, -(-count // 64))


def test_a_stored_mask_is_found_by_its_method_s_parameters_and_says_who_made_it(write: Write, plan: Manifest):
    trace = write()
    writer = TraceWriter(trace.path, plan)
    assert writer.lacks_mask(1, PARAMETERS)
    writer.write_mask(1, "topk", PARAMETERS, words(), MAKER)
    assert not writer.lacks_mask(1, PARAMETERS) and writer.lacks_mask(1, PARAMETERS | {"kept": 3}) and writer.lacks_mask(0, PARAMETERS)
    opened = open_trace(trace.path)
    facts = opened.find_mask(1, PARAMETERS)
    assert (facts.method, facts.made.kernel, facts.made.isa, facts.made.seconds) == ("topk", "native", "avx2", 0.25)
    assert facts.kept_pairs == np.bitwise_count(words()).sum()
    np.testing.assert_array_equal(opened.read_mask(1, facts), words())
    assert opened.has_masks and not trace.has_masks
    assert opened.find_mask(1, PARAMETERS | {"kept": 3}) is None and opened.find_mask(0, PARAMETERS) is None


def test_a_mask_of_other_scales_is_not_found(write: Write, plan: Manifest):
    trace = write()
    TraceWriter(trace.path, plan).write_mask(1, "topk", PARAMETERS, words(), MAKER)
    facts = open_trace(trace.path).manifest.facts(1)
    for other in (replace(facts, q_max=facts.q_max * 2), replace(facts, softmax_scale=0.5), replace(facts, sha256="3" * 64)):
        assert other.mask(PARAMETERS) is None


def test_what_is_derived_does_not_make_it_another_trace(write: Write, plan: Manifest):
    trace = write()
    writer = TraceWriter(trace.path, plan)
    writer.write_mask(1, "topk", PARAMETERS, words(), MAKER)
    writer.write_weights(0, {"layers.0.q": pack(np.eye(3, 70, dtype=bool))}, {"layers.0.q": 70}, MAKER)
    assert open_trace(trace.path).sha256 == trace.sha256


def test_a_mask_made_again_takes_the_place_of_the_first(write: Write, plan: Manifest):
    trace = write()
    writer = TraceWriter(trace.path, plan)
    for seed in (0, 1):
        writer.write_mask(1, "topk", PARAMETERS, words(seed), MAKER)
    opened = open_trace(trace.path)
    (facts,) = opened.manifest.facts(1).masks
    np.testing.assert_array_equal(opened.read_mask(1, facts), words(1))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!")])
def test_damaged_files_are_refused_and_missing_to_the_writer(write: Write, plan: Manifest, damage: Callable[[Path], object]):
    trace = write()
    writer = TraceWriter(trace.path, plan)
    writer.write_mask(1, "topk", PARAMETERS, words(), MAKER)
    writer.write_weights(1, {"layers.1.q": pack(np.ones((2, 3), bool))}, {"layers.1.q": 3}, MAKER)
    for name in (mask_file_name(1, PARAMETERS), weights_file_name(1)):
        damage(trace.path / name)
    opened = open_trace(trace.path)
    facts = opened.find_mask(1, PARAMETERS)
    for read in (lambda: opened.read_mask(1, facts), lambda: opened.read_weights(1)):
        with pytest.raises(TraceError, match="run the same `xmsim extract` again to restore it"):
            read()
    resumed = TraceWriter(trace.path, plan)
    assert resumed.missing == () and resumed.lacks_mask(1, PARAMETERS) and resumed.lacks_weights(1)


def test_words_of_another_shape_are_refused(write: Write, plan: Manifest):
    trace = write()
    with pytest.raises(TraceError, match=r"layer 0: mask topk has words \[2, 4, 6, 2\], the trace needs \[2, 4, 6, 1\]"):
        TraceWriter(trace.path, plan).write_mask(0, "topk", PARAMETERS, words().repeat(2, axis=-1), MAKER)
    assert not list(trace.path.glob("*.mask_*"))


def test_weights_are_read_as_bits_by_the_names_of_their_modules(write: Write, plan: Manifest):
    trace = write()
    matrices = {name: np.random.default_rng(1).random(shape) < 0.5 for name, shape in (("layers.2.q", (5, 130)), ("layers.2.o", (64, 1)))}
    in_features = {name: bits.shape[1] for name, bits in matrices.items()}
    TraceWriter(trace.path, plan).write_weights(2, {name: pack(bits) for name, bits in matrices.items()}, in_features, MAKER)
    opened = open_trace(trace.path)
    assert {name: bits.tolist() for name, bits in opened.read_weights(2).items()} == {
        name: bits.tolist() for name, bits in matrices.items()
    }
    with pytest.raises(TraceError, match="no weight bitmaps of layer 1; extract the trace with --weights"):
        opened.read_weights(1)
