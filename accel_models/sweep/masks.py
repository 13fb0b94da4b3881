"""Masks as files: made once for each trace, method and layer, and mapped into memory by every worker that needs them."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np

from xmsim.accel_models.sweep.code_version import code_sha256
from xmsim.configs.files import write_whole
from xmsim.traces.bits import pack
from xmsim.traces.store import Trace
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import Method, stored_mask


class MaskFolder:
    """A folder that all workers see; its files hold packed masks, uint64 [heads, queries, words], one a layer and window."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, trace: Trace, method: Method, layer: int) -> bool:
        """Whether any window of the layer is still to be made."""
        return not all(self._path(trace, method, layer, window).exists() for window in range(trace.windows))

    def make(self, trace: Trace, method: Method, layer: int) -> None:
        """Write the layer's masks, each whole or not at all; a mask that the trace holds is taken over.

        Raises:
            XmsimError: the method does not fit the layer, or the trace is damaged.
        """
        captured = trace.read_layer(layer)
        stored = stored_mask(trace, method, layer)
        for window in range(trace.windows):
            keep = stored.keep(window, captured) if stored else method.keep(captured, window)
            write_whole(self._path(trace, method, layer, window), partial(_save, pack(keep)))

    def workload(self, trace: Trace, method: Method, layer: int, window: int) -> AttentionWorkload:
        """The workload of a mask that was made; its words stay in the file until they are read."""
        manifest, facts = trace.manifest, trace.manifest.facts(layer)
        # "c": as writable as compiled code expects, and never written to
        words = np.load(self._path(trace, method, layer, window), mmap_mode="c", allow_pickle=False)
        return AttentionWorkload.from_packed(
            words,
            keys=manifest.valid_tokens[window],
            head_dim=manifest.model.head_dim,
            kv_heads=len(manifest.kv_head_ids),
            causal=facts.bias.kind != "none",
            window=facts.bias.window,
            hidden_size=manifest.model.hidden_size,
        )

    def _path(self, trace: Trace, method: Method, layer: int, window: int) -> Path:
        made_of = json.dumps([trace.sha256, method.parameters, code_sha256()], sort_keys=True)
        digest = hashlib.sha256(made_of.encode()).hexdigest()
        return self._folder / f"{digest[:24]}.layer_{layer:03d}.window_{window:03d}.npy"


def _save(words: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, words, allow_pickle=False)
