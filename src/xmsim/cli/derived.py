"""What a trace stores besides its tensors, in lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median

from xmsim.traces.manifest import Derived, Manifest


def derived_lines(manifest: Manifest) -> list[str]:
    """`mask xm  4 of 4 layers  130816 pairs  native avx512  0.81 ms a layer  0.1 MB`, and so on."""
    masks: dict[str, list[tuple[int, Derived]]] = {}
    for facts in manifest.layers:
        for mask in facts.masks:
            prediction = mask.parameters.get("prediction")
            predicted = f", {prediction['bits']}-bit 1:{prediction['group']}" if prediction else ""
            key = json.dumps([f"mask {mask.method}{predicted}", mask.parameters], sort_keys=True)
            masks.setdefault(key, []).append((mask.kept_pairs, mask.made))
    lines = [_line(json.loads(key)[0], "pairs", found, len(manifest.layer_ids)) for key, found in masks.items()]
    weights = [facts.weights for facts in manifest.layers if facts.weights]
    if weights:
        counted = [(sum(matrix.nonzeros for matrix in one.matrices), one.made) for one in weights]
        lines.append(_line("weight bitmaps", "nonzero weights", counted, len(manifest.layer_ids)))
    return lines


def _line(name: str, what: str, found: Sequence[tuple[int, Derived]], layers: int) -> str:
    makers = ", ".join(sorted({f"{made.kernel} {made.isa}" if made.isa else made.kernel for _, made in found}))
    milliseconds = median(made.seconds for _, made in found) * 1e3
    megabytes = sum(made.file_bytes for _, made in found) / 1e6
    counted = sum(count for count, _ in found)
    return f"{name}  {len(found)} of {layers} layers  {counted} {what}  {makers}  {milliseconds:.2f} ms a layer  {megabytes:.1f} MB"
