"""A model as it lies on disk: its tensors one by one, and the skeleton of modules that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from xmsim.workloads.extraction.extract import config_sha256, weights_sha256
from xmsim.workloads.models.loading import ModelError, find_model, is_causal_language_model, quiet_transformers
from xmsim.workloads.tuning.record import BaseModel

_BLOCKS = {  # the list of decoder blocks of each family
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gemma": "model.layers",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "phi": "model.layers",
    "phi3": "model.layers",
    "starcoder2": "model.layers",
    "olmo": "model.layers",
    "olmo2": "model.layers",
    "cohere": "model.layers",
    "granite": "model.layers",
    "stablelm": "model.layers",
    "smollm3": "model.layers",
    "glm": "model.layers",
    "opt": "model.decoder.layers",
    "gpt2": "transformer.h",
    "bloom": "transformer.h",
    "falcon": "transformer.h",
    "mpt": "transformer.blocks",
}
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A causal language model in a folder, of which nothing is in memory but names and shapes.

    Tensors go by the names of transformers' modules; files of older checkpoints may call them otherwise.
    """

    folder: Path
    name: str
    config: Any
    skeleton: Any  # the model on torch's device meta: it has no weights
    keys: dict[str, str]  # of each tensor, its name in the files
    files: dict[str, Path]  # of each tensor, by its name here

    @property
    def family(self) -> str:
        """Transformers' model type, e.g. llama."""
        return str(self.config.model_type)

    @property
    def blocks(self) -> Any:
        """The decoder blocks of the skeleton, in order."""
        return self.skeleton.get_submodule(_BLOCKS[self.family])

    @property
    def tied_embeddings(self) -> bool:
        """Whether lm_head is the embedding matrix."""
        return bool(self.config.get_text_config().tie_word_embeddings)

    @cached_property
    def base(self) -> BaseModel:
        """What records say of it; all weights are read, one at a time."""
        names = sorted(name for name, _ in self.skeleton.named_parameters())
        first = self.read(names[:1])[names[0]]
        return BaseModel(
            name=self.name,
            family=self.family,
            dtype=str(first.dtype).removeprefix("torch."),
            weights_sha256=weights_sha256((name, self.read([name])[name]) for name in names),
            config_sha256=config_sha256(self.config),
        )

    def block_prefix(self, number: int) -> str:
        """What the names of a block's tensors begin with."""
        return f"{_BLOCKS[self.family]}.{number}."

    def block_names(self, number: int) -> list[str]:
        """Tensors of a block."""
        return [name for name in self.keys if name.startswith(self.block_prefix(number))]

    def outer_names(self) -> list[str]:
        """Tensors outside the blocks: embeddings, the last norm, lm_head unless it is tied."""
        return [name for name in self.keys if not name.startswith(f"{_BLOCKS[self.family]}.")]

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """Tensors by name, in the number format in which they are stored.

        Raises:
            ModelError: a file cannot be read.
        """
        tensors = {}
        for name in names:
            try:
                with safe_open(self.files[name], framework="pt") as file:
                    tensors[name] = file.get_tensor(self.keys[name])
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{self.files[name]}: cannot be read ({error}); fetch the model again") from error
        return tensors

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: the folder has none that can be loaded.
        """
        import transformers

        try:
            with quiet_transformers(transformers):
                return transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise whatever they like
            raise ModelError(f"{self.name}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from error


def open_stored_model(name_or_path: str) -> StoredModel:
    """Find a model as `load_model` does; a hub model is fetched first.

    Raises:
        ModelError: not found, of a family whose blocks we do not know, quantised, or its files lack a weight.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError("pruning needs torch and transformers: pip install 'xmsim[capture]'") from error
    source, name = find_model(name_or_path)
    folder = Path(source) if Path(source).is_dir() else _fetch(source)
    try:
        with quiet_transformers(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            family = config.model_type
            if family not in _BLOCKS or not is_causal_language_model(config):
                raise ModelError(
                    f"{name}: a model of family {family} ({', '.join(config.architectures or ['no architecture'])}) cannot be pruned "
                    f"block by block; causal language models of {', '.join(_BLOCKS)} can"
                )
            if getattr(config, "quantization_config", None):
                raise ModelError(f"{name}: its weights are quantised; prune the model that they were made from")
            with torch.device("meta"):
                skeleton = transformers.AutoModelForCausalLM.from_config(config).eval()
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name_or_path}: cannot be loaded ({str(error).splitlines()[0]})") from error
    keys, files = _tensors(folder, skeleton)
    if missing := [name for name, _ in skeleton.named_parameters() if name not in keys]:
        raise ModelError(f"{name_or_path}: the weights lack {missing[0]} ({len(missing)} missing in all); check the model folder")
    return StoredModel(folder, name, config, skeleton, keys, files)


def _fetch(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's client raises whatever its network library does
        raise ModelError(f"{name}: cannot be fetched ({(str(error).splitlines() or [type(error).__name__])[0]})") from error


def _tensors(folder: Path, skeleton: Any) -> tuple[dict[str, str], dict[str, Path]]:
    """Of each tensor in the folder, by the name of its module: its name in the files, and its file."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder}: has no safetensors file; save the model with save_pretrained, other weight files are pickles")
    known, prefix = set(skeleton.state_dict()), f"{skeleton.base_model_prefix}."
    keys, files = {}, {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found: Sequence[str] = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); fetch the model again") from error
        for key in found:
            name = key if key in known or key.startswith(prefix) else prefix + key  # saved without the language head's class
            keys[name], files[name] = key, path
    return keys, files
