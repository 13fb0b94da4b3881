"""Packing by torch gives the arrays of the formats, bit for bit."""

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.formats.column_bitmap import ColumnBitmap  # noqa: E402
from xmsim.reference.formats.macko import Macko  # noqa: E402
from xmsim.reference.formats.tca_bme import TcaBme  # noqa: E402
from xmsim.reference.kernels.cuda import weights  # noqa: E402

FORMATS = {"tca_bme": (weights.GpuTcaBme, TcaBme), "columns": (weights.GpuColumnBitmap, ColumnBitmap), "macko": (weights.GpuMacko, Macko)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(64, 64), (70, 200), (1, 9)])
@pytest.mark.parametrize("name", FORMATS)
def test_packing_by_torch_gives_the_arrays_of_the_format(name, shape, sparsity, dtype):
    make = torch.Generator().manual_seed(4)
    weight = torch.randn(shape, generator=make).to(dtype)
    weight[torch.rand(shape, generator=make) < sparsity] = 0
    ours, judge = FORMATS[name]
    packed, wanted = ours.from_dense(weight), ours.of(judge.from_dense(weight), "cpu")
    for field in ours.__dataclass_fields__:
        one, other = getattr(packed, field), getattr(wanted, field)
        if field == "values" and not weight.any():
            continue  # nothing is stored, and no kernel looks at it
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one.view(torch.int16), other.view(torch.int16)), field
        else:
            assert one == other


@pytest.mark.parametrize("name", FORMATS)
def test_what_no_format_stores_is_refused(name):
    with pytest.raises(ValueError, match="weight: it holds NaN"):
        FORMATS[name][0].from_dense(torch.full((8, 8), torch.nan, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"weight: a matrix of bfloat16 or float16 is needed, got torch\.float32"):
        FORMATS[name][0].from_dense(torch.zeros(8, 8))
