"""One model whose linear layers exist on several kernels, of which one at a time is in place: pairs of runs share all the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models.linear_exchange import Format, kernel_layer, linear_layers, put_layer
from xmsim.workloads.models.shape import huge_tensor

TORCH = "torch"  # nn.Linear as it is
KERNELS = (TORCH, *get_args(Format))
SPDP, TEAL = "spdp", "teal"  # the kernels that read no column whose input is small
TWO_FOUR = "2:4"


class LinearVariants:
    """The linear layers of a model on several kernels, from the same pruned weights."""

    def __init__(
        self,
        model: Any,
        kernels: Sequence[str],
        *,
        sparsity: float | None,
        include: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda done, layers: None,
    ) -> None:
        """Prune the layers by magnitude and prepare each kernel's copy of them, in huge pages all.

        Args:
            model: a transformers model; changed in place, and left with the first kernel's layers.
            kernels: of KERNELS.
            sparsity: share of each weight matrix that is pruned, with kernel 2:4 two of each four; None: weights stay as they are.
            include: as in `sparsify`.
            progress: called after each layer.
        Raises:
            XmsimError: no such kernel, no layer that matches, or weights that a kernel's format does not hold.
        """
        for kernel in kernels:
            if kernel not in KERNELS:
                raise XmsimError(f"no kernel {kernel}; linear layers run on {', '.join(KERNELS)}")
        self._model = model
        self.layers: dict[str, dict[str, Any]] = {kernel: {} for kernel in kernels}
        zeros = weights = 0
        chosen = linear_layers(model, include=include)
        for done, name in enumerate(list(chosen)):
            plain = pruned_linear(chosen.pop(name), sparsity, two_of_four=bool(sparsity) and TWO_FOUR in kernels)
            zeros, weights = zeros + int((plain.weight == 0).sum()), weights + plain.weight.numel()
            for kernel in kernels:
                try:
                    self.layers[kernel][name] = plain if kernel == TORCH else kernel_layer(plain, kernel)  # type: ignore[arg-type]
                except ValueError as error:
                    if isinstance(error, XmsimError):
                        raise
                    raise XmsimError(f"{name} cannot be stored as {kernel}: {error}") from error
            put_layer(model, name, self.layers[kernels[0]][name])
            progress(done + 1, done + 1 + len(chosen))
        self.static_sparsity = zeros / weights  # share of the layers' weights that is zero

    def use(self, kernel: str) -> None:
        """Put this kernel's layers in place."""
        for name, layer in self.layers[kernel].items():
            put_layer(self._model, name, layer)

    def weight_bytes(self, kernel: str) -> int:
        """Bytes of the weights of the layers on this kernel."""
        return sum(stored_bytes(layer) for layer in self.layers[kernel].values())


def pruned_linear(layer: Any, sparsity: float | None, *, two_of_four: bool = False) -> Any:
    """A linear layer with the same bias and a copy of the weights in huge pages, the smallest of them zero, or two of each four."""
    from torch import nn

    from xmsim.reference.weights import magnitude_keep

    weight = layer.weight.detach() if isinstance(layer, nn.Linear) else layer.weight.detach().t()
    kept = weight.clone() if weight.is_cuda else huge_tensor(tuple(weight.shape), weight.dtype).copy_(weight)
    if two_of_four:
        kept.mul_(magnitude_keep(kept, kept=2, block=4))
    elif sparsity:
        kept.mul_(magnitude_keep(kept, sparsity=sparsity))
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta", dtype=weight.dtype)
    plain.weight = nn.Parameter(kept, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return plain.eval()


def stored_bytes(layer: Any) -> int:
    """Bytes that a linear layer's weights take, whatever kernel it is for."""
    return int(layer.weight.nbytes if type(layer).__name__ == "Linear" else layer.nbytes)
