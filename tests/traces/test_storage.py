from __future__ import annotations

import numpy as np
import pytest

from xmsim.traces.errors import TraceError
from xmsim.traces.storage import decode, encode, rounded, storage_dtype

torch = pytest.importorskip("torch")


def test_bfloat16_rounds_as_torch_does_for_every_exponent_sign_and_tie():
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)  # below, at and above the tie
    values = (upper[:, None] | lower).view(np.float32)
    values = values[~np.isnan(values)]

    stored = encode(values, "bfloat16")

    expected = torch.from_numpy(values).to(torch.bfloat16)
    np.testing.assert_array_equal(stored, expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(decode(stored, "bfloat16"), expected.float().numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_formats_round_as_torch_does(dtype: str):
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * 100
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(decode(encode(values, storage_dtype(dtype)), storage_dtype(dtype)), expected)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"), [("bfloat16", 1.00390625, 1.0), ("float16", 1e6, np.inf), ("float32", 0.1, np.float32(0.1))]
)
def test_a_single_value_is_rounded_as_it_would_be_stored(dtype: str, value: float, expected: float):
    assert rounded(value, storage_dtype(dtype)) == expected


def test_an_unknown_format_is_answered_with_those_that_exist():
    with pytest.raises(TraceError, match="no storage dtype int8; choose float32, bfloat16, float16"):
        storage_dtype("int8")
