"""Low-rank adapters through peft: beside a model, into a folder, and merged into a model of their own."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model, quiet_transformers
from xmsim.workloads.models.whole_folder import check_free, write_folder
from xmsim.workloads.tuning.recipe import LoraConfig
from xmsim.workloads.tuning.record import TuningRecord, read_tuning, write_tuning

WEIGHTS = "adapter_model.safetensors"  # as peft calls it


def add_adapter(loaded: LoadedModel, lora: LoraConfig, *, source: str, seed: int) -> Any:
    """Freeze a model and put adapters beside its linear modules, in place: the model computes with them from here on.

    Args:
        source: the base model as `load_model` finds it; peft writes it into the adapter's folder.
        seed: of the adapters' first weights.
    Returns: peft's view of the model, which `write_adapter` takes.
    Raises:
        ModelError: peft is missing, or no module has such a name.
    """
    peft = _peft()
    import torch

    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets is None else list(lora.targets),
    )
    _check_targets(loaded, lora.targets or ())
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft tells what it sets by itself
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(loaded.model, config)
        except ValueError as error:  # e.g. of the stacked matrices of experts
            raise ModelError(f"{loaded.family}: peft puts no adapter beside its layers ({error}); tune it whole, without --lora") from error
    config.base_model_name_or_path = source  # peft has put the folder here, which for xm-tiny is of this host
    return adapted


def quantised(loaded: LoadedModel, format: str, *, dtype: str, device: str) -> LoadedModel:
    """The same model with the weights of its linear modules in 4 bits, ready for adapters.

    Source: https://huggingface.co/docs/peft/developer_guides/quantization
    Raises:
        ModelError: no GPU, or bitsandbytes or peft is missing.
    """
    check_four_bit(device)
    peft = _peft()
    import torch
    import transformers

    number_format = getattr(torch, dtype)
    packing = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=format, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=number_format
    )
    with quiet_transformers(transformers):
        model = type(loaded.model).from_pretrained(
            loaded.model.name_or_path, quantization_config=packing, dtype=number_format, device_map={"": device}, use_safetensors=True
        )
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # that is the recipe's choice
    return LoadedModel(model, loaded.tokenizer, loaded.name, loaded.family)


def check_four_bit(device: str) -> None:
    """Refuse 4-bit weights where they cannot be had.

    Raises:
        ModelError: not on a GPU, or bitsandbytes is missing.
    """
    if not device.startswith("cuda"):
        raise ModelError("4-bit weights (--qlora) need an NVIDIA GPU: use --device cuda, or --lora with weights as they are")
    if find_spec("bitsandbytes") is None:
        raise ModelError("4-bit weights (--qlora) need bitsandbytes: pip install 'xmsim[qlora]'")


def write_adapter(folder: Path, adapted: Any) -> None:
    """Write an adapter as peft reads it: its weights and its configuration."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    adapted.peft_config["default"].save_pretrained(folder)


def merge_adapter(adapter: Path, *, out: Path, base: str | None = None) -> TuningRecord:
    """Write the base model with an adapter added to its weights, as a folder that any transformers reads.

    The merged weights have the number format in which the base was tuned.

    Args:
        adapter: a folder that tuning wrote.
        out: the new folder.
        base: where the base model is; None: where it was when it was tuned.
    Raises:
        XmsimError: not an adapter of ours, its base is not to be found or is another model, or `out` holds something.
    """
    check_free(out)
    record = read_tuning(adapter)
    peft = _peft()
    config = _adapter_config(peft, adapter)
    loaded = load_model(base or config.base_model_name_or_path, dtype=record.base.dtype)
    if model_facts(loaded).weights_sha256 != record.base.weights_sha256:
        raise ModelError(f"{adapter}: tuned beside {record.base.name} of other weights than {loaded.name}; name that model before --merge")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft's, about names in transformers
        adapted = peft.PeftModel.from_pretrained(loaded.model, str(adapter), config=config, autocast_adapter_dtype=False)
    merged = adapted.merge_and_unload()

    def write(folder: Path) -> None:
        write_model(folder, LoadedModel(merged, loaded.tokenizer, loaded.name, loaded.family))
        write_tuning(folder, record)

    write_folder(out, write)
    return record


def write_model(folder: Path, loaded: LoadedModel) -> None:
    """Write a model folder: safetensors, configuration, tokenizer."""
    import transformers

    with quiet_transformers(transformers):
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ModelError("adapters need peft: pip install 'xmsim[tune]'") from error
    return peft


def _check_targets(loaded: LoadedModel, targets: tuple[str, ...]) -> None:
    """peft is content with one name that fits; the others would be left out in silence."""
    ends = {name.rpartition(".")[2] for name, _ in loaded.model.named_modules()}
    if missing := [target for target in targets if target not in ends]:
        raise ModelError(
            f"{loaded.name}: no module of this {loaded.family} is called {missing[0]}; "
            "name its linear modules in the recipe's lora.targets, or leave that key out to take all"
        )


def _adapter_config(peft: Any, adapter: Path) -> Any:
    if not (adapter / WEIGHTS).is_file():  # without it peft would look for a pickle
        raise ModelError(f"{adapter}: no adapter, it has no {WEIGHTS}; a tuned model that is whole needs no merging")
    try:
        return peft.PeftConfig.from_pretrained(str(adapter))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{adapter}: its adapter_config.json cannot be read ({error}); tune again") from error
