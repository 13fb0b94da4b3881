"""The DynaX artifact's JSON files (`xm_sparse_config.json` and its siblings), read as methods of ours.

Of a file only the keys that decide a mask are read; its spellings (`quant_methed`) are the artifact's.
Source: coralabo/DynaX, configs/*.json and models/utils/sparse_attention.py.
"""

from __future__ import annotations

from typing import Any

from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.yaml_file import YamlDocument

PREDICTIONS = {"1_2_4bit": {"group": 2, "bits": 4}, "1_4_6bit": {"group": 4, "bits": 6}}  # quant_methed
# by sparse_methed: {key of ours: key of the file, or the constant of the artifact's code}
_METHODS: dict[str, dict[str, str | int]] = {
    "xm": {"block": 64, "kept_high": 16, "kept_low": 8, "threshold_high": "threshold_0", "threshold_low": "threshold_1"},
    "nm": {"block": "m", "kept": "n"},
    "sanger": {"threshold": "threshold_sanger"},
    "topk": {"kept": "topk"},
    "salo": {"block": 64, "window": 8, "global_tokens": 1, "picks": 3, "dilation": 1},
}


def artifact_method(document: YamlDocument) -> YamlDocument:
    """The keys of our method that one of the artifact's files stands for; places stay those of the file.

    Raises:
        ConfigError: a key is missing, or names a method or a prediction that the artifact does not have.
    """
    if not _value(document, "is_sparse"):
        return YamlDocument(document.path, {"method": "dense"}, document.marks)
    kind = _choice(document, "sparse_methed", tuple(_METHODS))
    data: dict[str, Any] = {"method": kind}
    marks = dict(document.marks)
    for ours, theirs in _METHODS[kind].items():
        data[ours] = _value(document, theirs) if isinstance(theirs, str) else theirs
        if isinstance(theirs, str):
            marks[(ours,)] = document.marks[(theirs,)]
    if _value(document, "is_quant"):
        data["prediction"] = PREDICTIONS[_choice(document, "quant_methed", tuple(PREDICTIONS))]
    return YamlDocument(document.path, data, marks)


def _value(document: YamlDocument, key: str) -> Any:
    if key not in document.data:
        raise ConfigError(f"{document.place(())}: {key}: missing; a file of the DynaX artifact has it")
    return document.data[key]


def _choice(document: YamlDocument, key: str, known: tuple[str, ...]) -> str:
    value = str(_value(document, key))
    if value not in known:
        raise ConfigError(f"{document.place((key,))}: {key}: no {value}; {nearest(value, known)}")
    return value
