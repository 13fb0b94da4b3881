"""Packed weights become the matrix again, and unfit ones are refused."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels.cuda import unpack, weight_checks, weights  # noqa: E402

CHECKS = {
    weights.GpuTcaBme: weight_checks.check_tca_bme,
    weights.GpuColumnBitmap: weight_checks.check_column_bitmap,
    weights.GpuMacko: weight_checks.check_macko,
}
BITMAPS = (weights.GpuTcaBme, weights.GpuColumnBitmap)


def matrix(rows, columns, device="cpu", *, density=0.5):
    make = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=make) * (torch.rand(rows, columns, generator=make) < density)
    weight[: rows // 3, : columns // 2] = 0
    return weight.bfloat16().to(device)


@pytest.mark.parametrize("shape", [(64, 64), (72, 136), (130, 264)])
@pytest.mark.parametrize("form", BITMAPS)
def test_rows_come_back_as_they_were(device, either_order, form, shape):
    dense = matrix(*shape, device)
    packed = form.from_dense(dense)
    assert torch.equal(unpack.unpacked(packed), dense)
    assert torch.equal(unpack.unpacked(packed, shape[0] // 64 * 64), dense[shape[0] // 64 * 64 :])
    assert torch.equal(unpack.unpacked(packed, 0, 64), dense[:64])


@pytest.mark.parametrize("form", BITMAPS)
def test_many_tokens_are_multiplied_part_by_part(device, form, monkeypatch):
    monkeypatch.setattr(unpack, "_ROWS", 64)
    dense, x = matrix(200, 136, device), torch.randn(20, 136, device=device).bfloat16()
    bias = torch.randn(200, device=device).bfloat16()
    wanted = torch.nn.functional.linear(x, dense, bias)
    torch.testing.assert_close(unpack.unpacked_linear(x, form.from_dense(dense), bias), wanted)


def test_rows_that_are_not_there_are_refused(device):
    packed = weights.GpuTcaBme.from_dense(matrix(72, 136, device))
    for first, rows in ((32, 8), (64, 9), (128, None), (0, -1)):
        with pytest.raises(ValueError, match="first: rows"):
            unpack.unpacked(packed, first, rows)
    with pytest.raises(ValueError, match="weights: 132 inputs; a multiple of 8 is needed"):
        unpack.unpacked(weights.GpuTcaBme.from_dense(matrix(72, 132, device)))


@pytest.mark.parametrize("form", CHECKS)
@pytest.mark.parametrize("shape", [(64, 64), (72, 136), (3, 1000)])
def test_what_was_packed_here_fits(form, shape):
    CHECKS[form](form.from_dense(matrix(*shape, density=0.1)))


@pytest.mark.parametrize(
    "form, part, change",
    [
        (weights.GpuTcaBme, "lane_bitmap", lambda x: x ^ 1),
        (weights.GpuTcaBme, "lane_bitmap", lambda x: x[:-1].clone()),
        (weights.GpuTcaBme, "group_offsets", lambda x: x + 8),
        (weights.GpuTcaBme, "stripe_offsets", lambda x: x + 1),
        (weights.GpuTcaBme, "values", lambda x: x[:-8].clone()),
        (weights.GpuTcaBme, "values", lambda x: x.float()),
        (weights.GpuTcaBme, "shape", lambda x: (x[0] + 64, x[1])),
        (weights.GpuColumnBitmap, "values", lambda x: x[:-1].clone()),
        (weights.GpuColumnBitmap, "column_offsets", lambda x: x + 1),
        (weights.GpuColumnBitmap, "column_offsets", lambda x: x.int()),
        (weights.GpuMacko, "row_indices", lambda x: x + 4),
        (weights.GpuMacko, "equal_values", lambda x: x + 8),
        (weights.GpuMacko, "row_indices", lambda x: x.flip(0)),
        (weights.GpuMacko, "deltas", lambda x: torch.full_like(x, -1)),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(form, part, change):
    packed = form.from_dense(matrix(72, 136))
    with pytest.raises(ValueError, match=f"^({part}|group_offsets|values|lane_bitmap)"):
        CHECKS[form](replace(packed, **{part: change(getattr(packed, part))}))
