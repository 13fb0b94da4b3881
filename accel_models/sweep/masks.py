"""Masks as files: made once for each trace, phase, method and layer, and mapped into memory by every worker that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xmsim.accel_models.sweep.code_version import code_sha256
from xmsim.accel_models.sweep.points import TracePart
from xmsim.configs.files import write_whole
from xmsim.traces.bits import WORD_BITS
from xmsim.traces.store import Trace
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import Method
from xmsim.workloads.phases import phase_workloads, read_for_phase


class MaskFolder:
    """A folder that all workers see; a file a layer and window holds packed masks, uint64 [workloads, heads, queries, words].

    A prefill is one workload; of decoded tokens each is one, its row filled up with zeros to the words of the last.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, trace: Trace, part: TracePart, method: Method, layer: int) -> bool:
        """Whether any window of the layer is still to be made."""
        return not all(self._path(trace, part, method, layer, window).exists() for window in range(trace.windows))

    def make(self, trace: Trace, part: TracePart, method: Method, layer: int) -> None:
        """Write the layer's masks, each whole or not at all; a mask that the trace holds is taken over.

        Raises:
            XmsimError: the method does not fit the layer, or the trace is damaged.
        """
        captured, stored = read_for_phase(trace, layer, method, part.decode_tokens)
        for window in range(trace.windows):
            masks = [one.words for one in phase_workloads(captured, window, method, part.decode_tokens, stored)]
            write_whole(self._path(trace, part, method, layer, window), partial(_save, masks))

    def workload(self, trace: Trace, part: TracePart, method: Method, layer: int, window: int, keys: int) -> AttentionWorkload:
        """The workload that sees so many keys, of a mask that was made; the words of a prefill stay in the file until they are read."""
        manifest, facts = trace.manifest, trace.manifest.facts(layer)
        # "c": as writable as compiled code expects, and never written to
        masks = np.load(self._path(trace, part, method, layer, window), mmap_mode="c", allow_pickle=False)
        words = masks[part.cache_tokens(manifest.valid_tokens[window]).index(keys), ..., : -(-keys // WORD_BITS)]
        return AttentionWorkload.from_packed(
            words,
            keys=keys,
            head_dim=manifest.model.head_dim,
            kv_heads=len(manifest.kv_head_ids),
            causal=facts.bias.kind != "none",
            window=facts.bias.window,
            hidden_size=manifest.model.hidden_size,
        )

    def _path(self, trace: Trace, part: TracePart, method: Method, layer: int, window: int) -> Path:
        made_of = json.dumps([trace.sha256, part.decode_tokens, method.parameters, code_sha256()], sort_keys=True)
        digest = hashlib.sha256(made_of.encode()).hexdigest()
        return self._folder / f"{digest[:24]}.layer_{layer:03d}.window_{window:03d}.npy"


def _save(masks: Sequence[npt.NDArray[np.uint64]], path: Path) -> None:
    """`masks`: uint64 [heads, queries, words], the last the longest."""
    words = np.zeros((len(masks), *masks[-1].shape), np.uint64)
    for filled, mask in zip(words, masks, strict=True):
        filled[..., : mask.shape[2]] = mask
    with path.open("wb") as file:
        np.save(file, words, allow_pickle=False)
