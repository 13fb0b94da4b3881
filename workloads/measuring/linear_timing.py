"""Linear layers of given shapes on several kernels in turn, each checked against float64 before it is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.generate_timing import paired_ratio
from xmsim.workloads.measuring.generation_record import LinearRun
from xmsim.workloads.measuring.linear_variants import SPDP, TORCH, TWO_FOUR, pruned_linear, stored_bytes
from xmsim.workloads.models.linear_exchange import kernel_layer

CACHE_BYTES = 1 << 27  # copies of the weights together are larger than any cache, and are used in turn
MOST_COPIES = 64  # layers below CACHE_BYTES / 64 stay in a cache, as they do in a model


def time_linear(
    in_features: int,
    out_features: int,
    kernels: Sequence[str],
    *,
    sparsity: float,
    dynamic_sparsity: float = 0.0,
    tokens: int = 1,
    dtype: str = "bfloat16",
    threads: int,
    repeats: int = 25,
    seed: int = 0,
) -> tuple[LinearRun, ...]:
    """Time one shape; the kernels take turns, and every call finds its weights in memory, not in a cache.

    Args:
        sparsity: share of the weights that is zero; with kernel 2:4 it is half, two of each four.
        dynamic_sparsity: share of the inputs that kernel spdp skips.
        tokens: one of each of so many sequences, as in decoding.
    Raises:
        XmsimError: a kernel's result is wrong on this host.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    plain = torch.nn.Linear(in_features, out_features, bias=False, device="meta", dtype=kind)
    plain.weight = torch.nn.Parameter(torch.randn(out_features, in_features, generator=generator).mul_(0.02).to(kind), requires_grad=False)
    plain = pruned_linear(plain, sparsity, two_of_four=TWO_FOUR in kernels)
    copies = min(MOST_COPIES, -(-CACHE_BYTES // stored_bytes(plain)))
    x = torch.randn(tokens, 1, in_features, generator=generator).to(kind)
    layers = {kernel: [copied(plain) if kernel == TORCH else kernel_layer(plain, kernel) for _ in range(copies)] for kernel in kernels}  # type: ignore[arg-type]
    errors = {kernel: checked_error(layers[kernel][0], plain, x, kernel) for kernel in kernels}
    for layer in layers.get(SPDP, ()):
        layer.threshold = float(x.abs().float().quantile(dynamic_sparsity)) if dynamic_sparsity else 0.0
    samples_ms: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    with torch.inference_mode():
        for turn in range(repeats + copies):  # the first round over the copies warms up
            for kernel in kernels:
                layer = layers[kernel][turn % copies]
                begin = time.perf_counter()
                layer(x)
                samples_ms[kernel].append(1e3 * (time.perf_counter() - begin))
    timed = {kernel: samples[copies:] for kernel, samples in samples_ms.items()}
    return tuple(
        LinearRun(
            in_features=in_features,
            out_features=out_features,
            tokens=tokens,
            kernel=kernel,
            isa="" if kernel == TORCH else native.offered_isa() or "",
            dtype=dtype,
            sparsity=float((plain.weight == 0).float().mean()),
            threads=threads,
            weight_bytes=stored_bytes(layers[kernel][0]),
            timing=Timing.of(timed[kernel]),
            speedup={other: paired_ratio(timed[other], timed[kernel]) for other in kernels if other != kernel},
            max_error=errors[kernel][0],
            allowed_error=errors[kernel][1],
        )
        for kernel in kernels
    )


def copied(layer: Any) -> Any:
    """The same linear layer with weights of its own, in huge pages."""
    return pruned_linear(layer, None)


def checked_error(layer: Any, plain: Any, x: Any, kernel: str) -> tuple[float, float]:
    """The largest error against float64 and the bound it keeps: twice that of torch in the same precision, and a rounding of the peak.

    int8 weights are held to the step of their own quantisation instead, which torch's layer does not have.
    """
    import torch

    x = x.reshape(-1, plain.in_features)
    with torch.inference_mode():
        exact = x.double() @ plain.weight.double().t()
        error = float((layer(x[:, None])[:, 0].double() - exact).abs().max())
        usual = float((plain(x).double() - exact).abs().max())
    bound = 2 * usual + torch.finfo(x.dtype).eps * float(exact.abs().max())
    if kernel == "bitmap_int8":
        weight_step = plain.weight.double().abs().amax(dim=1) / 127
        x_step = x.double().abs().amax(dim=1) / 127
        rounding = x.double().abs().sum(dim=1)[:, None] * weight_step / 2 + x_step[:, None] * plain.weight.double().abs().sum(dim=1) / 2
        bound += float((rounding + plain.in_features * weight_step * x_step[:, None] / 4).max())
    if not error <= bound:
        raise XmsimError(f"kernel {kernel}: error {error:.3g} exceeds {bound:.3g} on this host; please report it, with `xmsim doctor`")
    return error, bound
