"""What a CUDA graph cannot hold: where a call would wait for the GPU or copy from the host, torch's dispatcher sees it on the emulator."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels.cuda import linear, ops, weights  # noqa: E402
from xmsim.reference.kernels.cuda.attention import sparse_attention  # noqa: E402
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention  # noqa: E402
from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words  # noqa: E402
from xmsim.reference.kernels.cuda.modules import GpuSpdpLinear, GpuTcaBmeLinear, GpuTealLinear  # noqa: E402
from xmsim.reference.kernels.cuda.native import cuda_library  # noqa: E402


@pytest.fixture
def refusing(monkeypatch):
    """A mode that raises where a number is read back or a tensor is made of one on the host."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import stand_in_gpu

    return stand_in_gpu.Refusing


def dense(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def calls(device):
    """{name: a call}, as a graph would hold it."""
    weight, x, many = dense(72, 136).to(device), dense(2, 136).to(device), dense(20, 136).to(device)
    tca, spdp, macko = (form.from_dense(weight) for form in (weights.GpuTcaBme, weights.GpuColumnBitmap, weights.GpuMacko))
    k, q = dense(2, 200, 64).to(device), dense(4, 64).to(device)
    cache = GpuKvCache(2, 64, tokens=256, device=device)
    cache.append(k, k)
    cache.predict_with(4)
    words, queries = torch.full((4, 9, 4), -1, device=device), dense(4, 9, 64).to(device)
    yield "dense", lambda: linear.dense_linear(x, weight)
    yield "tca-bme", lambda: ops.any_tokens(x, tca, None)
    yield "tca-bme, many tokens", lambda: ops.any_tokens(many, tca, None)
    yield "macko", lambda: linear.macko_linear(x, macko)
    yield "teal", lambda: linear.teal_linear(x, weight.t().contiguous(), threshold=0.5)
    yield "spdp", lambda: linear.spdp_linear(x, spdp, threshold=0.5)
    yield "spdp, many tokens", lambda: ops.any_tokens(many, spdp, None)
    yield "prefill", lambda: sparse_attention(queries, k, k, words)
    yield "decode", lambda: decode_attention(q, cache)
    yield "prediction", lambda: decode_attention(q, cache, predicted_xm_words(q, cache, group=2, q_max=2.0).words)
    for kind in (GpuTcaBmeLinear, GpuSpdpLinear, GpuTealLinear):
        layer = kind(136, 72, device=device).requires_grad_(False)
        layer.threshold = 0.25
        yield kind.__name__, lambda layer=layer: layer(x[:, None])
        layer = kind(136, 72, device=device).requires_grad_(False)
        layer.threshold = torch.full((136,), 0.25, device=device)
        yield f"{kind.__name__}, a threshold for each input", lambda layer=layer: layer(x[:, None])


def test_no_call_waits_for_the_gpu_or_copies_from_the_host(refusing, device):
    for name, call in calls(device):
        wanted = call()  # the first looks at weights
        with refusing():
            found = call()
        assert torch.equal(found, wanted), name


@pytest.mark.gpu
def test_a_graph_replays_every_call(gpu):
    """What a capture on a GPU refuses beside waiting shows there alone: launch attributes, loading of code, streams."""
    if cuda_library() is None:
        pytest.skip("the CUDA kernels are not built")
    for name, call in calls("cuda"):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            wanted = call().clone()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = call()
        found.fill_(torch.nan)
        graph.replay()
        assert torch.equal(found, wanted), name


def test_what_would_wait_is_seen(refusing, device):
    cache = GpuKvCache(1, 64, tokens=64, device=device)
    cache.append(dense(1, 60, 64).to(device), dense(1, 60, 64).to(device))
    cache.predict_with(4)
    with refusing(), pytest.raises(AssertionError, match="_local_scalar_dense cannot be captured"):
        predicted_xm_words(dense(2, 64).to(device), cache, group=2)  # asks for the largest query
    with refusing(), pytest.raises(AssertionError, match="lift_fresh cannot be captured"):
        torch.tensor(1.0)
