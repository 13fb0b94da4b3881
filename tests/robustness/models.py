"""Folders of models and of unfinished trainings under fuzz, of a model small enough to be loaded thousands of times."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PLAN = {"model": "xm-tiny", "method": "xm", "steps": 3}
CHECKPOINT = "out.part/checkpoint.safetensors"
MODEL_FILES = ("model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/tokenizer_config.json")
PACKED_FILES = ("packed/config.json", "packed/linear_layers.safetensors", "packed/other_weights.safetensors")


def write_checkpoint(folder: Path) -> None:
    """A training of two tensors after its first step."""
    from xmsim.workloads.tuning.checkpoint import Checkpoint, Progress

    parameters, optimizer = _training()
    _step(parameters, optimizer)
    Checkpoint(folder / "out", PLAN, Progress, name="tuning").write(parameters, optimizer, Progress(1.0, (2.5,)))


def go_on_with_checkpoint(folder: Path) -> None:
    """Read it and do the next step."""
    from xmsim.workloads.tuning.checkpoint import Checkpoint, Progress
    from xmsim.workloads.tuning.resumable_steps import resume

    parameters, optimizer = _training()
    loop: Any = SimpleNamespace(parameters=parameters, optimizer=optimizer, steps=PLAN["steps"])
    checkpoint = Checkpoint(folder / "out", PLAN, Progress, name="tuning")
    if checkpoint.exists:  # else one is begun, beside `out`
        resume(loop, checkpoint, lambda: Progress(0.0, ()))
    _step(parameters, optimizer)
    assert all(state["exp_avg"].shape == parameter.shape for parameter, state in optimizer.state.items())


def _training() -> tuple[dict[str, Any], Any]:
    import torch

    layer = torch.nn.Linear(4, 3)
    parameters = dict(layer.named_parameters())
    return parameters, torch.optim.AdamW([{"params": [parameter]} for parameter in parameters.values()], lr=0.1)


def _step(parameters: dict[str, Any], optimizer: Any) -> None:
    import torch

    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@cache
def _model() -> Any:
    import transformers
    from torch import manual_seed

    manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, max_position_embeddings=64, **sizes)).eval()


@cache
def _tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(32)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")


def write_model_folder(folder: Path) -> None:
    _model().save_pretrained(folder / "model")
    _tokenizer().save_pretrained(folder / "model")


def write_packed_model(folder: Path) -> None:
    from xmsim.workloads.models.convert import convert_model

    write_model_folder(folder)
    convert_model(str(folder / "model"), out=folder / "packed", format="bitmap")


def load_and_run(name: str, folder: Path) -> None:
    """Load the model and its tokenizer, and let it read a few tokens."""
    import torch

    from xmsim.workloads.models.loading import load_model

    loaded = load_model(str(folder / name))
    ids = torch.tensor([loaded.tokenizer("w1 w2 w3")["input_ids"][:8]])
    with torch.no_grad():
        loaded.model(input_ids=ids)
