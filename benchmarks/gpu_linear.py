"""Linear layers of one to 16 tokens on the GPU, beside torch's: checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_rows import Row, WrongResult, one_line
from gpu_shapes import Shapes
from gpu_timing import Contender, copies_wanted, fastest, speedup, summary, timed_by_turns

from xmsim.reference.kernels.cuda import linear
from xmsim.reference.kernels.cuda.weights import GpuColumnBitmap, GpuMacko, GpuTcaBme

DTYPE = torch.bfloat16
ALLOWED_ERROR = 8e-3  # relative, of a result that is rounded to bfloat16
TORCH, DENSE = "torch linear", "own dense"
TWO_FOUR = "2:4, torch"  # its library's kernel; there is none of ours
KERNELS = (DENSE, "tca-bme", "macko", "teal", "spdp")  # ours, the simplest first

Multiply = Callable[[torch.Tensor], torch.Tensor]


def problem(outputs: int, inputs: int, tokens: int, sparsity: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A pruned matrix and inputs that nothing has seen before; normal numbers, never zeros but for the pruned ones."""
    weight = torch.randn(outputs, inputs, device=device) / inputs**0.5
    weight[torch.rand(outputs, inputs, device=device) < sparsity] = 0
    return weight.to(DTYPE), torch.randn(tokens, inputs, device=device).to(DTYPE)


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The two largest of each four neighbours; the others are zeros."""
    fours = weight.unflatten(1, (-1, 4))
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(2, fours.abs().topk(2, dim=2).indices, True)
    return (fours * kept).flatten(1)


def kernels(names: Iterable[str], weight: torch.Tensor, tokens: int, threshold: float) -> Iterator[tuple[str, Multiply, bool]]:
    """Name, kernel on this matrix, whether it drops inputs at or below the threshold; those that serve so many tokens."""
    for name in names:
        if name == TORCH:
            yield name, lambda x: torch.nn.functional.linear(x, weight), False
        elif name == TWO_FOUR:
            compressed = torch.sparse.to_sparse_semi_structured(two_of_four(weight))
            yield name, lambda x, compressed=compressed: torch.nn.functional.linear(x, compressed), False
        elif name == "tca-bme":
            yield name, partial(linear.tca_bme_linear, weights=GpuTcaBme.from_dense(weight)), False
        elif tokens > 1:
            continue
        elif name == DENSE:
            yield name, lambda x: linear.dense_linear(x, weight), False
        elif name == "macko":
            yield name, partial(linear.macko_linear, weights=GpuMacko.from_dense(weight)), False
        elif name == "teal":
            yield name, partial(linear.teal_linear, columns=weight.T.contiguous(), threshold=threshold), True
        else:
            yield name, partial(linear.spdp_linear, weights=GpuColumnBitmap.from_dense(weight), threshold=threshold), True


def check(name: str, outputs: int, inputs: int, tokens: int, sparsity: float, device: str) -> float | None:
    """A kernel's relative error against float64; None where it does not serve so many tokens.

    Raises:
        WrongResult: it is too large.
    """
    weight, x = problem(outputs, inputs, tokens, sparsity, device)
    threshold = float(x.float().abs().median())
    for _, multiply, drops in kernels((name,), weight, tokens, threshold):
        given = torch.where(x.abs() > threshold, x, torch.zeros_like(x)) if drops else x
        multiplied = two_of_four(weight) if name == TWO_FOUR else weight
        wanted = given.double() @ multiplied.double().T
        error = float((multiply(x).double() - wanted).norm() / wanted.norm())
        if not error <= ALLOWED_ERROR:
            raise WrongResult(f"{name}, {outputs} x {inputs}, {tokens} tokens: error {error:.2e} exceeds {ALLOWED_ERROR}")
        return error
    return None


def measure(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Each kernel that is not left out, checked on the shape and then timed."""
    ours = [name for name in KERNELS if name not in left_out]
    for outputs, inputs in shapes.linear:
        for tokens in shapes.linear_tokens:
            for sparsity in shapes.sparsities:
                names = [TORCH, *([TWO_FOUR] if sparsity == 0.5 else ()), *ours]
                errors: dict[str, float] = {}
                for name in names:
                    try:
                        error = check(name, outputs, inputs, tokens, sparsity, device)
                    except Exception as problem_found:  # one kernel that fails does not stop the others
                        yield f"{name} is not timed on {outputs} x {inputs}: {one_line(problem_found)}"
                        continue
                    if error is not None:
                        errors[name] = error
                copies = _copies(list(errors), shapes, outputs, inputs, tokens, sparsity, device)
                contenders = [Contender(name, tuple(copy[name] for copy in copies)) for name in errors]
                samples, failures = timed_by_turns(contenders, shapes)
                yield from failures
                base = fastest({name: samples[name] for name in (TORCH, DENSE) if name in samples})
                for name in samples:
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


def _copies(
    names: list[str], shapes: Shapes, outputs: int, inputs: int, tokens: int, sparsity: float, device: str
) -> list[dict[str, Callable[[], Any]]]:
    """Calls on so many copies that weights come from memory."""
    copies = []
    for _ in range(copies_wanted(outputs * inputs, shapes.most_copies)):
        weight, x = problem(outputs, inputs, tokens, sparsity, device)
        found = kernels(names, weight, tokens, float(x.float().abs().median()))
        copies.append({name: partial(multiply, x) for name, multiply, _ in found})
    return copies
