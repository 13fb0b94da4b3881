"""A model of a known shape with random weights, where the trained ones are not at hand: its times are true, its words are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from xmsim.configs.schema import Config, PositiveFloat, PositiveInt, read_config
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.reference.kernels.native import huge_empty
from xmsim.workloads.models.loading import ModelError

FOLDER = "shapes"
WEIGHT_SCALE = 0.02  # standard deviation, as Llama is initialised
_POOL = 1 << 20  # random numbers drawn; larger matrices repeat them, because no time depends on their values


class ModelShape(Config):
    """The sizes of a decoder of Llama's form."""

    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: Annotated[int, Field(gt=0, multiple_of=2)]
    intermediate_size: PositiveInt
    vocabulary: PositiveInt
    tied_embeddings: bool
    rope_theta: PositiveFloat
    sources: dict[str, str]

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelShape:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not divide over {self.kv_heads} kv_heads")
        return self


def shipped_shapes() -> tuple[str, ...]:
    """Names of the shapes that come with xmsim."""
    return shipped_names(FOLDER)


def load_shape(name_or_path: str | Path) -> ModelShape:
    """A shape by the name of a shipped one, or from a YAML file.

    Raises:
        ConfigError: no such shape or file, or the file is wrong.
    """
    return read_config(find_config(FOLDER, name_or_path, "model shape"), ModelShape)


def random_model(shape: ModelShape, *, dtype: str = "bfloat16", seed: int = 0) -> Any:
    """A transformers Llama of this shape in evaluation mode, its weights normal and in huge pages.

    Raises:
        ModelError: torch or transformers is missing, or no such dtype.
    """
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise ModelError("a model needs torch and transformers: pip install 'xmsim[capture]'") from error
    if dtype not in ("float32", "bfloat16"):
        raise ModelError(f"no dtype {dtype}; models of a shape are made in float32 or bfloat16")
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        max_position_embeddings=131072,
    )
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(kind)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its tables are computed, not stored
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(seed)).mul_(WEIGHT_SCALE).to(kind)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.ones(parameter.shape, dtype=kind) if parameter.dim() == 1 else _repeated(pool, parameter.shape)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    if shape.tied_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def _repeated(pool: Any, size: Any) -> Any:
    """A matrix in huge pages, filled with the pool over and over."""
    matrix = huge_tensor(tuple(size), pool.dtype)
    flat = matrix.view(-1)
    for first in range(0, len(flat), len(pool)):
        part = flat[first : first + len(pool)]
        part.copy_(pool[: len(part)])
    return matrix


def huge_tensor(shape: tuple[int, ...], dtype: Any) -> Any:
    """A torch tensor of zeros in huge pages."""
    import numpy as np
    import torch

    element_bytes = torch.empty((), dtype=dtype).element_size()
    return torch.from_numpy(huge_empty((*shape[:-1], shape[-1] * element_bytes), np.uint8)).view(dtype)
