"""Pruning a model that need not fit into memory: block by block from one folder into another."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from xmsim.configs.codec import encode
from xmsim.configs.errors import XmsimError
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import ModelError
from xmsim.workloads.models.whole_folder import check_free, write_folder
from xmsim.workloads.pruning.budget import Budget, layer_budget
from xmsim.workloads.pruning.decoder import StreamedDecoder
from xmsim.workloads.pruning.methods import LayerMethod, Sums, Target, layer_method
from xmsim.workloads.pruning.part import UnfinishedPruning, place, write_tensors
from xmsim.workloads.pruning.pattern import Pattern, parse_pattern, weight_matrix
from xmsim.workloads.pruning.record import PrunedLayer, PruningRecord, write_pruning
from xmsim.workloads.pruning.stored import StoredModel, open_stored_model
from xmsim.workloads.pruning.text import Calibration, read_calibration
from xmsim.workloads.tuning.limits import full_memory_explained

Progress = Callable[[int, int], None]  # (blocks done, blocks in all)
_DTYPES = ("float32", "bfloat16", "float16")


def _no_progress(done: int, blocks: int) -> None:
    """Show nothing."""


def prune_model(
    model: str,
    *,
    out: Path,
    method: str = "wanda",
    sparsity: float | None = None,
    pattern: str | None = None,
    budget: str = "uniform",
    text: Path | None = None,
    samples: int = 64,
    length: int = 512,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    progress: Progress = _no_progress,
) -> PruningRecord:
    """Prune the linear layers of a model's blocks and write it as a folder that any transformers reads, with a record of how.

    Blocks are pruned in order, each on what the pruned ones before it give, as Wanda, SparseGPT and ADMM do it. One block is in memory
    at a time, and the states of all samples. Embeddings, norms, biases and lm_head stay as they are; weights that are zero already count
    towards the sparsity. An interrupted run goes on after its last finished block, in `<out>.part`, when it is called again with the
    same arguments, and ends as it would have: bit for bit on one CPU host with as many threads.

    Args:
        model: xm-tiny, a local folder or a hub name, of a family in docs/pruning.md; it is only read.
        out: the new folder.
        method: magnitude, wanda, wanda_alpha, sparsegpt or admm.
        sparsity: share of the weights of these layers that is pruned, at least 0 and below 1; with a pattern it may be left out.
        pattern: e.g. 2:4, at most 2 of every 4 consecutive inputs of an output keep their weights.
        budget: uniform, owl or alphapruning: how the sparsity is shared out over blocks.
        text, samples, length, seed: calibration samples, of so many tokens each, drawn from this text, or from that which comes with xmsim.
            They are not read where neither method nor budget looks at inputs.
        dtype: of the computation; pruned weights keep the number format in which they are stored.
        progress: called after each block.
    Raises:
        XmsimError: whatever is wrong with the model, the choice, the text or the folder, in one sentence.
    """
    check_free(out)
    parsed = None if pattern is None else parse_pattern(pattern)
    rule, shares = layer_method(method), layer_budget(budget, parsed)
    target = Target(_checked_sparsity(sparsity, parsed), parsed)
    _check_fit(rule, target)
    check_place(dtype, device)
    stored = open_stored_model(model)
    _check_blocks_divide(stored, target)
    reads_inputs = rule.gathers is not None or shares.reads_inputs
    calibration = stored_calibration(stored, text, samples=samples, length=length, seed=seed) if reads_inputs else None
    return prune_blocks(stored, rule, shares, target, calibration, out=out, dtype=dtype, device=device, progress=progress)


def prune_blocks(
    stored: StoredModel,
    method: LayerMethod,
    budget: Budget,
    target: Target,
    calibration: Calibration | None,
    *,
    out: Path,
    dtype: str,
    device: str,
    seconds_before: float = 0.0,
    progress: Progress = _no_progress,
) -> PruningRecord:
    """What `prune_model` does once everything is chosen and read.

    Args: those of `prune_model`; calibration is None where none is looked at, and seconds_before what the masks took to train.
    Raises: as `prune_model`.
    """
    import torch

    facts: dict[str, Any] = {
        "method": {"name": method.name, **method.parameters},
        "sparsity": target.sparsity,
        "pattern": None if target.pattern is None else str(target.pattern),
        "budget": {"name": budget.name, **budget.parameters},
    }
    seen = encode(calibration.facts) if calibration else None
    plan = {"model": encode(stored.base), **facts, "calibration": seen, "dtype": dtype, "device": device}
    part = UnfinishedPruning(out, plan)
    started = time.monotonic()
    with torch.inference_mode(), _full_memory_explained(stored.name, calibration):
        run = _Run(stored, method, target, part, StreamedDecoder(stored, dtype=dtype, device=device), calibration, progress)
        layers = run.layers(run.block_sparsities(budget))
    record = PruningRecord(
        base=stored.base,
        **facts,
        calibration=calibration.facts if calibration else None,
        tied_embeddings=stored.tied_embeddings,
        dtype=dtype,
        device=torch.device(device).type,
        threads=torch.get_num_threads(),
        host=describe_host(),
        seconds=round(seconds_before + time.monotonic() - started, 1),
        layers=tuple(layers),
    )

    def write(folder: Path) -> None:
        _write_model(folder, stored, part)
        write_pruning(folder, record)

    write_folder(out, write)
    part.delete()
    return record


class _Run:
    """One pruning: blocks that are missing in its part are pruned, the others only run."""

    def __init__(
        self,
        stored: StoredModel,
        method: LayerMethod,
        target: Target,
        part: UnfinishedPruning,
        decoder: StreamedDecoder,
        calibration: Calibration | None,
        progress: Progress,
    ) -> None:
        self._stored, self._method, self._target, self._part, self._decoder = stored, method, target, part, decoder
        self._windows = calibration.windows if calibration else ()
        self._progress = progress

    def block_sparsities(self, budget: Budget) -> list[float]:
        """What the budget gives each block, or gave it before the run was interrupted."""
        if (known := self._part.sparsities) is not None:
            return known
        if budget.reads_inputs:
            self._decoder.begin(self._windows)
        try:
            sparsities = budget.share(self._stored, self._decoder, self._target, **budget.parameters)
        except ValueError as error:
            raise XmsimError(f"{self._stored.name}, budget {budget.name}: {error}") from error
        self._part.begin(sparsities)
        return sparsities

    def layers(self, sparsities: list[float]) -> list[PrunedLayer]:
        """Prune what is not pruned yet; gives all layers."""
        blocks = range(len(sparsities))
        missing = [number for number in blocks if not self._part.has(number)]
        if self._method.gathers is not None and missing:
            self._decoder.begin(self._windows)
        layers: list[PrunedLayer] = []
        for number in blocks:
            if number in missing:
                names = self._stored.block_names(number)
                tensors = self._stored.read(names)
                self._decoder.load(number, tensors)
                sums = {} if self._method.gathers is None else self._decoder.gather(number, self._method.gathers)
                own = [
                    self._prune(number, name, tensors, sums.get(name), sparsities[number])
                    for name in linear_layers(self._stored.blocks[number])
                ]
                self._part.write(number, {self._stored.keys[name]: tensors[name] for name in names}, own)
            else:
                by_key, own = self._part.read(number)
                tensors = {name: by_key[self._stored.keys[name]] for name in self._stored.block_names(number)}
            if self._method.gathers is not None and missing and number < missing[-1]:
                self._decoder.load(number, tensors)
                self._decoder.advance(number)
            self._decoder.release(number)
            layers += own
            self._progress(number + 1, len(blocks))
        return layers

    def _prune(self, number: int, layer: str, tensors: dict[str, Any], sums: Sums | None, sparsity: float) -> PrunedLayer:
        """Prune one linear layer: in `tensors`, in its own number format."""
        module = linear_layers(self._stored.blocks[number])[layer]
        name = f"{self._stored.block_prefix(number)}{layer}"
        stored = tensors[f"{name}.weight"]
        transposed = type(module).__name__ == "Conv1D"  # it holds its matrix [in, out]
        weight = (stored.t() if transposed else stored).to(module.weight.device)
        try:
            pruned = self._method.prune(weight, sums, self._target.with_share(sparsity, name), **self._method.parameters).weight
        except ValueError as error:
            raise ModelError(f"{self._stored.name}, layer {name}: {error}") from error
        tensors[f"{name}.weight"] = (pruned.t() if transposed else pruned).contiguous().cpu()
        return PrunedLayer(
            name=name,
            block=number,
            out_features=weight.shape[0],
            in_features=weight.shape[1],
            target_sparsity=sparsity,
            sparsity=_zero_share(pruned),
            sparsity_before=_zero_share(weight),
        )


def _full_memory_explained(name: str, calibration: Calibration | None) -> AbstractContextManager[None]:
    if calibration is None:
        return nullcontext()
    return full_memory_explained(name, calibration.facts.length_tokens, "use a smaller --length or fewer --samples")


def _zero_share(weight: Any) -> float:
    return int((weight == 0).sum()) / weight.numel()


def _write_model(folder: Path, stored: StoredModel, part: UnfinishedPruning) -> None:
    """A model folder: a safetensors file for each block and one for the rest, their index, configuration and tokenizer."""
    blocks = range(len(stored.blocks))
    names = [f"model-{at + 1:05}-of-{len(blocks) + 1:05}.safetensors" for at in (*blocks, len(blocks))]
    sources = [stored.block_names(number) for number in blocks] + [stored.outer_names()]
    for number in blocks:
        place(part.path(number), folder / names[number])
    write_tensors(folder / names[-1], {stored.keys[name]: tensor for name, tensor in stored.read(sources[-1]).items()})
    index = {
        "metadata": {},
        "weight_map": {stored.keys[name]: file for file, own in zip(names, sources, strict=True) for name in own},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for name in ("config.json", "generation_config.json"):
        if (stored.folder / name).is_file():
            shutil.copyfile(stored.folder / name, folder / name)
    stored.tokenizer().save_pretrained(folder)


def stored_calibration(stored: StoredModel, text: Path | None, *, samples: int, length: int, seed: int) -> Calibration:
    """`read_calibration` for a model. Raises: as that, and ModelError where the model does not read so many tokens."""
    limit = getattr(stored.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ModelError(f"{stored.name}: reads at most {limit} tokens, samples of {length} were asked for; use --length {limit} or fewer")
    return read_calibration(text, stored.tokenizer(), samples=samples, length=length, seed=seed)


def _checked_sparsity(sparsity: float | None, pattern: Pattern | None) -> float:
    if pattern is not None:
        if sparsity is not None and sparsity != pattern.sparsity:
            raise XmsimError(f"sparsity {sparsity}: pattern {pattern} has {pattern.sparsity:g}; leave --sparsity out")
        return pattern.sparsity
    if sparsity is None:
        raise XmsimError("how much is pruned? give --sparsity, e.g. 0.5, or --pattern, e.g. 2:4")
    if not 0 <= sparsity < 1:
        raise XmsimError(f"sparsity {sparsity}: a share of the weights is needed, at least 0 and less than 1")
    return sparsity


def _check_fit(method: LayerMethod, target: Target) -> None:
    if target.pattern is not None and not method.takes_pattern:
        raise XmsimError(f"method {method.name}: prunes a share of each layer and has no pattern; leave --pattern out, or use wanda")


def check_place(dtype: str, device: str) -> None:
    """Raises: XmsimError: no such number format, or no GPU."""
    import torch

    if dtype not in _DTYPES:
        raise XmsimError(f"no dtype {dtype}; models are run in {', '.join(_DTYPES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise XmsimError(f"device {device}: torch finds no CUDA GPU on this host; use --device cpu")


def _check_blocks_divide(stored: StoredModel, target: Target) -> None:
    """Before anything is run."""
    if target.pattern is None:
        return
    for name, layer in linear_layers(stored.blocks[0]).items():
        inputs = weight_matrix(layer).shape[1]
        if inputs % target.pattern.block:
            raise ModelError(
                f"{stored.name}, layer {stored.block_prefix(0)}{name}: its {inputs} inputs are not divided into blocks of "
                f"{target.pattern.block}; choose another --pattern"
            )
