from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xmsim.reference.attention import nm_keep, predict_scores, sparse_attention
from xmsim.workloads.attachment import layer as attached_layer
from xmsim.workloads.attachment.layer import AttachedLayer
from xmsim.workloads.attachment.mask import AttachedMask, build_mask, full_mask
from xmsim.workloads.attachment.operands import Operands
from xmsim.workloads.methods.library import Method, load_method

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

HEADS, KV_HEADS, DIM = 4, 2, 8
NM = load_method("nm", block=8, kept=2)
METHODS = {
    "nm": NM,
    "xm": load_method("xm", block=8, kept_high=3, kept_low=1),
    "xm_shared_max": load_method("xm_shared_max", block=8, kept_high=3, kept_low=1),
    "predicted": load_method("nm", block=8, kept=2, prediction={"group": 2, "bits": 4}),
    "sanger": load_method("sanger", threshold=0.05),
    "salo": load_method("salo", block=96, window=8),
    "window": load_method("window", window=9, global_tokens=1),
    "dense": load_method("dense"),
}


def operands(windows: int, queries: int, keys: int, seed: int = 0) -> Operands:
    draw = torch.Generator().manual_seed(seed)

    def tensor(heads: int, tokens: int) -> Any:
        return torch.randn(windows, heads, tokens, DIM, generator=draw)

    return Operands(tensor(HEADS, queries), tensor(KV_HEADS, keys), tensor(KV_HEADS, keys), scale=DIM**-0.5)


def causal(windows: int, queries: int, keys: int, valid: Any = None) -> AttachedMask:
    """The mask of a causal model, as transformers asks for it."""
    return build_mask(
        batch_size=windows,
        q_length=queries,
        kv_length=keys,
        q_offset=keys - queries,
        kv_offset=0,
        mask_function=lambda window, head, query, key: key <= query,
        attention_mask=valid,
        use_vmap=False,
        device="cpu",
    )


def attend(method: Method, given: Operands, mask: AttachedMask) -> tuple[Any, Any]:
    layer = AttachedLayer(0, method)
    return layer.attend(given, mask), layer.counts


@pytest.mark.parametrize("queries", [300, 131])
@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_queries_and_windows_change_nothing(method: str, queries: int, monkeypatch: pytest.MonkeyPatch):
    given = operands(3, queries, 300)
    valid = torch.ones(3, 300, dtype=torch.bool)
    valid[1, :5] = False
    for mask in (causal(3, queries, 300), causal(3, queries, 300, valid)):
        whole, counts = attend(METHODS[method], given, mask)
        monkeypatch.setattr(attached_layer, "_BLOCK_SCORES", 70 * HEADS * 300)  # 64 queries of one window
        blocks, block_counts = attend(METHODS[method], given, mask)
        monkeypatch.undo()
        torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-6)
        assert block_counts == counts


def test_blocks_begin_where_the_method_lets_rows_be_cut():
    tiles = lambda *arguments: list(attached_layer._query_blocks(*arguments))  # noqa: E731
    assert tiles(300, 0, 1 << 18, 1) == [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
    assert tiles(300, 100, 1 << 18, 1) == [(0, 28), (28, 92), (92, 156), (156, 220), (220, 284), (284, 300)]
    assert tiles(300, 100, 1 << 18, 96) == [(0, 92), (92, 284), (284, 300)]
    assert tiles(1, 1000, 1 << 20, 64) == [(0, 1)]
    assert tiles(300, 0, 1 << 12, 1) == [(0, 300)]


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
    """The number of entries of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = operation(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("method", ["xm", "predicted", "window"])
def test_no_tensor_holds_all_pairs_of_queries_and_keys_even_in_training(method: str, monkeypatch: pytest.MonkeyPatch):
    tokens = 512
    monkeypatch.setattr(attached_layer, "_BLOCK_SCORES", HEADS * 64 * tokens)
    given = operands(1, tokens, tokens)
    leaves = [tensor.requires_grad_() for tensor in (given.q, given.k, given.v)]
    with LargestTensor() as largest:
        output, _ = attend(METHODS[method], given, causal(1, tokens, tokens))
        output.square().sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)
    assert largest.entries == HEADS * 64 * tokens  # of one block: an eighth of all


def saved_entries(method: Method, tokens: int) -> int:
    """Entries of the tensors that wait for the backward pass."""
    given = operands(1, tokens, tokens)
    given.q.requires_grad_()
    storages: dict[int, int] = {}

    def save(tensor: Any) -> Any:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        attend(method, given, causal(1, tokens, tokens))
    return sum(storages.values())


def test_what_waits_for_the_backward_pass_grows_with_the_length_and_not_with_its_square():
    assert saved_entries(NM, 256) <= 2.1 * saved_entries(NM, 128)


def plain(given: Operands, allowed: Any) -> Any:
    """Softmax over the two largest of eight keys, written without any of our code but the mask's; zero where nothing is kept."""
    share = HEADS // KV_HEADS
    scores = given.q @ given.k.repeat_interleave(share, 1).transpose(2, 3) * given.scale
    keep = nm_keep(torch.where(allowed, scores.detach(), -torch.inf), kept=2, block=8)
    exponentials = torch.where(keep, scores.exp(), 0)
    weights = exponentials / exponentials.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    return (weights @ given.v.repeat_interleave(share, 1)).transpose(1, 2)


def gradients(output: Any, given: Operands) -> list[Any]:
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), (given.q, given.k, given.v)))


def test_gradients_are_those_of_a_softmax_over_the_kept_pairs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attached_layer, "_BLOCK_SCORES", HEADS * 64 * 150)
    given = operands(2, 150, 150)
    for tensor in (given.q, given.k, given.v):
        tensor.requires_grad_()
    layer = AttachedLayer(0, NM)
    output = layer.attend(given, causal(2, 150, 150))
    counts = layer.counts
    expected = plain(given, torch.ones(150, 150, dtype=torch.bool).tril())
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    for found, wanted in zip(gradients(output, given), gradients(expected, given), strict=True):
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert layer.counts == counts  # what is computed again on the way back is not counted again


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_keep_nothing_put_out_zero_and_have_no_gradient(dtype: Any):
    given = operands(1, 40, 40)
    given = replace(given, q=given.q.to(dtype) * 0.1, k=given.k.to(dtype), v=given.v.to(dtype))
    leaves = [tensor.requires_grad_() for tensor in (given.q, given.k, given.v)]
    output, counts = attend(load_method("sanger", threshold=0.2), given, full_mask(1, 40, 40, "cpu"))
    output.float().square().sum().backward()
    assert counts.kept == 0 and counts.allowed == HEADS * 40 * 40
    assert not output.any()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)  # NaN would be something


def test_dropout_is_the_same_on_the_way_back():
    given = replace(operands(1, 40, 40), dropout=0.5)
    given.v.requires_grad_()
    torch.manual_seed(0)
    output, _ = attend(NM, given, causal(1, 40, 40))
    assert not torch.equal(output, attend(NM, replace(given, dropout=0.0), causal(1, 40, 40))[0])
    (slope,) = torch.autograd.grad(output.sum(), given.v)
    # the output is linear in v: its sum is the sum of v times its gradient, if both saw the same pairs
    torch.testing.assert_close((slope * given.v).sum(), output.sum())


def predicted_output(given: Operands, q_max: Any = None, k_max: Any = None) -> np.ndarray:
    """The last rows of a causal layer under N:M of predicted scores, by the reference."""
    q, k, v = (tensor.numpy() for tensor in (given.q, given.k, given.v))
    queries, keys = q.shape[2], k.shape[2]
    allowed = np.arange(keys) <= np.arange(keys - queries, keys)[:, None]
    bias = np.where(allowed, np.float32(0) if given.alibi is None else given.alibi.numpy(), np.float32(-np.inf))
    scores = predict_scores(q, k, group=2, bits=4, scale=given.scale, q_max=q_max, k_max=k_max)
    keep = nm_keep(scores + bias, kept=2, block=8)
    return sparse_attention(q, k, v, keep, scale=given.scale, bias=bias).swapaxes(1, 2)


def largest(tensor: Any, scale_per: str) -> Any:
    magnitudes = tensor.abs().amax(dim=(0, 2, 3)).numpy()
    return magnitudes if scale_per == "head" else magnitudes.max()


@pytest.mark.parametrize("scale_per", ["layer", "head"])
def test_decode_steps_are_quantised_with_the_scale_of_the_last_prefill(scale_per: str):
    method = load_method("nm", block=8, kept=2, prediction={"group": 2, "bits": 4, "scale_per": scale_per})
    layer = AttachedLayer(0, method)
    for seed, growth in ((0, 3.0), (1, 0.2)):  # the second prefill replaces the scale of the first
        prefill = operands(2, 30, 30, seed)
        prefill = replace(prefill, q=prefill.q * growth)
        scale = largest(prefill.q, scale_per), largest(prefill.k, scale_per)
        output = layer.attend(prefill, causal(2, 30, 30))
        np.testing.assert_allclose(output.numpy(), predicted_output(prefill, *scale), rtol=0, atol=1e-5)
        for step in (1, 2):
            decode = operands(2, 1, 30 + step, seed + 10 * step)
            decode = replace(decode, q=decode.q * 10)  # values beyond the scale are clamped
            output = layer.attend(decode, causal(2, 1, 30 + step)).numpy()
            np.testing.assert_allclose(output, predicted_output(decode, *scale), rtol=0, atol=1e-5)
            own = largest(decode.q, scale_per), largest(decode.k, scale_per)
            assert not np.allclose(output, predicted_output(decode, *own), rtol=0, atol=1e-3)


def test_padding_has_no_part_in_the_scale():
    given = operands(2, 30, 30)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[1, 20:] = False
    louder = replace(given, q=torch.where(valid[:, None, :, None], given.q, 1e3), k=torch.where(valid[:, None, :, None], given.k, 1e3))
    outputs = [attend(METHODS["predicted"], tensors, causal(2, 30, 30, valid))[0] for tensors in (given, louder)]
    assert torch.equal(*outputs)


def test_a_window_of_padding_alone_puts_out_zero_and_counts_nothing():
    given = operands(2, 30, 30)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[1] = False
    output, counts = attend(METHODS["predicted"], given, causal(2, 30, 30, valid))
    assert not output[1].any()
    assert counts.allowed == HEADS * 30 * 31 // 2


def test_a_decode_step_before_any_prefill_is_quantised_with_its_own_scale():
    decode = operands(2, 1, 31)
    output, _ = attend(METHODS["predicted"], decode, causal(2, 1, 31))
    np.testing.assert_allclose(output.numpy(), predicted_output(decode), rtol=0, atol=1e-5)


def test_alibi_is_added_to_predicted_scores_too():
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    given = replace(operands(2, 30, 30), alibi=(slopes[:, None, None] * torch.arange(30.0)).expand(2, HEADS, 1, 30))
    output, _ = attend(METHODS["predicted"], given, causal(2, 30, 30))
    np.testing.assert_allclose(output.numpy(), predicted_output(given), rtol=0, atol=1e-5)


def test_an_autocast_that_the_caller_is_in_does_not_touch_the_mask():
    given = operands(2, 90, 90)
    _, counts = attend(METHODS["xm"], given, causal(2, 90, 90))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, in_autocast = attend(METHODS["xm"], given, causal(2, 90, 90))
    assert in_autocast == counts
