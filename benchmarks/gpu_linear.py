"""Linear layers of one to 16 tokens on the GPU, beside torch's: checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_timing import Contender, copies_wanted, fastest, speedup, summary, timed_by_turns

from xmsim.reference.kernels.cuda import linear
from xmsim.reference.kernels.cuda.weights import GpuColumnBitmap, GpuMacko, GpuTcaBme

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (28672, 8192))  # out_features, in_features of Llama-3-8B's layers and a 70B one
SPARSITIES = (0.5, 0.6)
TOKENS = (1, 8, 16)
DTYPE = torch.bfloat16
ALLOWED_ERROR = 8e-3  # relative, of a result that is rounded to bfloat16
TORCH, DENSE = "torch linear", "own dense"

Multiply = Callable[[torch.Tensor], torch.Tensor]


def problem(outputs: int, inputs: int, tokens: int, sparsity: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A pruned matrix and inputs that nothing has seen before; normal numbers, never zeros but for the pruned ones."""
    weight = torch.randn(outputs, inputs, device=device) / inputs**0.5
    weight[torch.rand(outputs, inputs, device=device) < sparsity] = 0
    return weight.to(DTYPE), torch.randn(tokens, inputs, device=device).to(DTYPE)


def kernels(weight: torch.Tensor, tokens: int, threshold: float) -> dict[str, tuple[Multiply, bool]]:
    """{name: (kernel on this matrix, whether it drops inputs at or below the threshold)}; those that serve so many tokens."""
    found: dict[str, tuple[Multiply, bool]] = {TORCH: (lambda x: torch.nn.functional.linear(x, weight), False)}
    bitmap = GpuTcaBme.from_dense(weight)
    found["tca-bme"] = (lambda x: linear.tca_bme_linear(x, bitmap), False)
    if tokens == 1:
        rows, columns, transposed = GpuMacko.from_dense(weight), GpuColumnBitmap.from_dense(weight), weight.T.contiguous()
        found[DENSE] = (lambda x: linear.dense_linear(x, weight), False)
        found["macko"] = (lambda x: linear.macko_linear(x, rows), False)
        found["teal"] = (lambda x: linear.teal_linear(x, transposed, threshold=threshold), True)
        found["spdp"] = (lambda x: linear.spdp_linear(x, columns, threshold=threshold), True)
    return found


def check(outputs: int, inputs: int, tokens: int, sparsity: float, device: str) -> dict[str, float]:
    """Relative errors against float64; raises where one is too large."""
    weight, x = problem(outputs, inputs, tokens, sparsity, device)
    threshold = float(x.float().abs().median())
    errors = {}
    for name, (multiply, drops) in kernels(weight, tokens, threshold).items():
        given = torch.where(x.abs() > threshold, x, torch.zeros_like(x)) if drops else x
        wanted = given.double() @ weight.double().T
        errors[name] = float((multiply(x).double() - wanted).norm() / wanted.norm())
        if not errors[name] <= ALLOWED_ERROR:
            raise SystemExit(f"{name}, {outputs} x {inputs}, {tokens} tokens: error {errors[name]:.2e} exceeds {ALLOWED_ERROR}")
    return errors


def measure(rounds: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a record."""
    for outputs, inputs in SHAPES[:2] if quick else SHAPES:
        for tokens in TOKENS[:1] if quick else TOKENS:
            for sparsity in SPARSITIES:
                errors = check(outputs, inputs, tokens, sparsity, "cuda")
                names, calls = _calls(outputs, inputs, tokens, sparsity)
                samples = timed_by_turns([Contender(name, tuple(call[name] for call in calls)) for name in names], rounds)
                base = fastest({name: samples[name] for name in (TORCH, DENSE) if name in samples})
                for name in names:
                    yield {
                        "name": f"linear {outputs}x{inputs}, {tokens} tokens, {sparsity:g} pruned: {name}",
                        "kernel": name,
                        "out_features": outputs,
                        "in_features": inputs,
                        "tokens": tokens,
                        "weight_sparsity": sparsity,
                        "active_inputs": 0.5 if name in ("teal", "spdp") else 1.0,
                        "dtype": "bfloat16",
                        "baseline": base,
                        "error": errors[name],
                        **summary(samples[name]),
                        **speedup(samples[base], samples[name]),
                    }


def _calls(outputs: int, inputs: int, tokens: int, sparsity: float) -> tuple[list[str], list[dict[str, Callable[[], Any]]]]:
    """Calls on so many copies that weights come from memory."""
    copies = []
    for _ in range(min(copies_wanted(outputs * inputs), 16)):
        weight, x = problem(outputs, inputs, tokens, sparsity, "cuda")
        found = kernels(weight, tokens, float(x.float().abs().median()))
        copies.append({name: lambda x=x, multiply=multiply: multiply(x) for name, (multiply, _) in found.items()})
    return list(copies[0]), copies
