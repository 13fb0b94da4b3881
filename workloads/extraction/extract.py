"""From a model and a text to a trace on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.traces.manifest import Manifest, ModelFacts, TextFacts
from xmsim.traces.storage import storage_dtype
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.extraction.capture import capture
from xmsim.workloads.extraction.captured import VERIFIED, CapturedLayer
from xmsim.workloads.extraction.derived import check_storable, linear_weights, store_masks, store_weights
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model
from xmsim.workloads.texts.windows import SHIPPED_TEXT, read_text, token_windows

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
_TRIAL_TOKENS = 8
Progress = Callable[[int, int], None]  # (layers done, layers in all)
# facts about a run of transformers, not about the model
_NOT_THE_MODEL = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "attn_implementation", "_attn_implementation_internal")


def _no_progress(done: int, layers: int) -> None:
    """Show nothing."""


def extract_trace(
    model: str | LoadedModel,
    *,
    out: Path,
    text: Path | None = None,
    tokens: int = 1024,
    windows: int = 1,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    storage: str = "float32",
    device: str = "cpu",
    masks: Sequence[str] = (),
    weights: bool = False,
    activations: bool = False,
    progress: Progress = _no_progress,
) -> Trace:
    """Run a model over a text once and store Q, K and V of its layers.

    An interrupted extraction goes on where it stopped when it is called again with the same arguments.

    Args:
        model: a name for `load_model`, or a model that is loaded already (`device` is then not looked at).
        out: the trace's folder.
        text: a UTF-8 file; None: the excerpt of WikiText-2 that comes with xmsim.
        tokens, windows: consecutive windows of so many tokens are cut from the start of the text.
        layers, heads: of the model, counted from 0; None: all. Equally many query heads of each KV head.
        storage: float32, bfloat16 or float16, the format of the stored numbers.
        masks: names or files of methods whose masks are stored besides, made by the kernels of the model's device.
        weights: store besides which elements of the linear layers' weights are not zero.
        activations: store besides a histogram of what each linear layer reads, from a second run of the windows.
        progress: called after each layer, after the masks and the weights of each, and after the histograms.
    Raises:
        XmsimError: whatever is wrong with the model, the text, the choice or the folder, in one sentence.
    """
    storage_dtype(storage)  # before the model is loaded
    methods = [load_method(name) for name in masks]
    check_storable(methods)
    path = text or SHIPPED_TEXT
    content = read_text(path)
    loaded = load_model(model, device=device) if isinstance(model, str) else model
    token_ids = token_windows(loaded.tokenizer, content, tokens=tokens, windows=windows, name=str(path))
    facts = TextFacts(path.name, hashlib.sha256(content.encode()).hexdigest())
    return extract_windows(
        loaded,
        token_ids,
        out=out,
        text=facts,
        layers=layers,
        heads=heads,
        storage=storage,
        masks=methods,
        weights=weights,
        activations=activations,
        progress=progress,
    )


def extract_windows(
    loaded: LoadedModel,
    token_ids: tuple[tuple[int, ...], ...],
    *,
    out: Path,
    text: TextFacts | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    storage: str = "float32",
    masks: Sequence[Method] = (),
    weights: bool = False,
    activations: bool = False,
    progress: Progress = _no_progress,
) -> Trace:
    """Store Q, K and V of a model that reads these windows as one batch, the shorter ones padded; else as `extract_trace`."""
    facts = model_facts(loaded)
    _check_length(loaded, token_ids)
    head_ids, kv_head_ids = _chosen_heads(facts, heads)
    plan = Manifest(
        model=facts,
        dtype=storage_dtype(storage),
        valid_tokens=tuple(len(ids) for ids in token_ids),
        layer_ids=_chosen_layers(facts, layers),
        head_ids=head_ids,
        kv_head_ids=kv_head_ids,
        text=text,
        token_ids=token_ids,
    )
    writer = TraceWriter(out, plan)
    steps = len(plan.layer_ids) * (1 + bool(masks) + weights) + activations
    if writer.missing:
        try:
            _check_family(loaded, facts, token_ids[0][:_TRIAL_TOKENS])
            _fill(writer, loaded, token_ids, lambda done, _: progress(done, steps))
        except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when memory is full
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            raise ModelError(
                f"{loaded.name}: out of memory at {plan.windows} windows of {plan.tokens} tokens; ask for fewer or shorter windows"
            ) from error
    trace = open_trace(out)
    linear = linear_weights(loaded.model) if weights else {}
    for number, layer in enumerate(trace.layers, start=1):
        if masks:
            store_masks(writer, trace, layer, masks, str(loaded.model.device))
        if weights:
            store_weights(writer, linear, layer)
        if masks or weights:
            progress(len(trace.layers) + number * (bool(masks) + weights), steps)
    if activations:
        from xmsim.workloads.extraction.activation_histograms import trace_histograms  # which runs layers by this module

        trace_histograms(trace, loaded)
        progress(steps, steps)
    return open_trace(out)


def _check_family(loaded: LoadedModel, facts: ModelFacts, token_ids: Sequence[int]) -> None:
    """Run a few tokens and store nothing: a model that turns out in its last layer to be none for a trace leaves no layers behind.

    Raises:
        ModelError: the family cannot be captured, or its layers are not of the sizes that a manifest has.
    """
    import torch

    expected = (facts.heads, facts.kv_heads, facts.head_dim)

    def check(captured: CapturedLayer) -> None:
        found = (captured.q.shape[1], captured.k.shape[1], captured.q.shape[3])
        if found != expected:
            own, configured = (f"{heads} heads on {kv_heads} KV heads of {size} elements" for heads, kv_heads, size in (found, expected))
            raise ModelError(
                f"{loaded.family}: this model family cannot be extracted, layer {captured.layer} has {own}, its configuration says "
                f"{configured}, and the layers of a trace are of one size; {VERIFIED}"
            )

    with torch.inference_mode(), capture(loaded, [len(token_ids)], check):
        run_layers(loaded.model, [token_ids])


def _fill(writer: TraceWriter, loaded: LoadedModel, token_ids: Sequence[Sequence[int]], progress: Progress) -> None:
    """Run the model and write the layers that are missing, each as soon as it is computed."""
    import torch

    missing = set(writer.missing)
    layers = len(writer.layer_ids)

    def take(captured: CapturedLayer) -> None:
        if captured.layer in missing:
            q, k, v = (tensor.detach().float().cpu().numpy() for tensor in (captured.q, captured.k, captured.v))
            writer.write_layer(captured.layer, q, k, v, scale=captured.scale, bias=captured.bias)
            progress(layers - len(writer.missing), layers)

    progress(layers - len(missing), layers)
    with torch.inference_mode(), capture(loaded, [len(ids) for ids in token_ids], take):
        run_layers(loaded.model, token_ids)


def run_layers(model: Any, token_ids: Sequence[Sequence[int]]) -> Any:
    """Run the layers of a model, without its head and without a cache, on windows padded on the right."""
    import torch
    from transformers import PreTrainedModel

    tokens = max(len(ids) for ids in token_ids)
    padded = torch.tensor([[*ids, *[0] * (tokens - len(ids))] for ids in token_ids], device=model.device)
    inputs = {"input_ids": padded}
    if any(len(ids) < tokens for ids in token_ids):
        valid = [[1] * len(ids) + [0] * (tokens - len(ids)) for ids in token_ids]
        inputs["attention_mask"] = torch.tensor(valid, device=model.device)
    body = model.base_model
    if body is model:  # an encoder; or Llama 4, which does not find its own
        body = next((part for part in model.children() if isinstance(part, PreTrainedModel)), model)
    return body(**inputs, use_cache=False)


def model_facts(loaded: LoadedModel) -> ModelFacts:
    """What a manifest says about a model; a hash over all weights tells checkpoints apart.

    Raises:
        ModelError: the configuration does not say how many layers and heads there are.
    """
    config = loaded.model.config
    for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"):
        if getattr(config, name, None) is None:
            cause = "it reads more than text" if config.get_text_config() is not config else "which models with attention have"
            reason = f"its configuration has no {name}, {cause}"
            raise ModelError(f"{loaded.family}: this model family cannot be extracted, {reason}; {VERIFIED}")
    first = config.per_layer_config[0] if getattr(config, "is_heterogeneous", False) else config  # where layers differ in such sizes
    return ModelFacts(
        name=loaded.name,
        family=loaded.family,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=getattr(first, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(first, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        hidden_size=config.hidden_size,
        vocabulary=config.vocab_size,
        config_sha256=config_sha256(config),
        weights_sha256=weights_sha256(_parameters(loaded.model)),
    )


def _parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of all that is learned, sorted; layers of our kernels as the matrices that they stand for, one at a time."""
    plain = dict(model.named_parameters())
    packed = {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "to_dense")}
    for name in sorted([*plain, *packed]):
        yield name, plain[name] if name in plain else packed[name].to_dense()


def config_sha256(config: Any) -> str:
    """A hash over what a configuration says about the model."""
    entries = {name: value for name, value in config.to_dict().items() if name not in _NOT_THE_MODEL}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode()).hexdigest()


def weights_sha256(parameters: Iterable[tuple[str, Any]]) -> str:
    """A hash over (name, tensor) of all parameters, which come sorted by name; one is looked at at a time."""
    import torch

    digest = hashlib.sha256()
    for name, weight in parameters:
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_length(loaded: LoadedModel, token_ids: Sequence[Sequence[int]]) -> None:
    tokens = max(len(ids) for ids in token_ids)
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise ModelError(f"{loaded.name}: reads at most {limit} tokens, {tokens} were asked for; use --tokens {limit} or fewer")


def _chosen_layers(model: ModelFacts, layers: Sequence[int] | None) -> tuple[int, ...]:
    chosen = range(model.layers) if layers is None else sorted(set(layers))
    _check_range(model, "layer", chosen, model.layers)
    return tuple(chosen)


def _chosen_heads(model: ModelFacts, heads: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Query heads, and the KV heads they read."""
    chosen = range(model.heads) if heads is None else sorted(set(heads))
    _check_range(model, "head", chosen, model.heads)
    group = model.heads // model.kv_heads
    kv_heads = sorted({head // group for head in chosen})
    shared = {kv_head: sum(head // group == kv_head for head in chosen) for kv_head in kv_heads}
    if len(set(shared.values())) > 1:
        counts = ", ".join(f"{count} of KV head {kv_head}" for kv_head, count in shared.items())
        raise XmsimError(
            f"{model.name}: {group} consecutive query heads share a KV head, and the chosen ones take {counts}; choose equally many of each"
        )
    return tuple(chosen), tuple(kv_heads)


def _check_range(model: ModelFacts, what: str, chosen: Sequence[int], limit: int) -> None:
    if not chosen:
        raise XmsimError(f"{model.name}: no {what} was chosen; it has {what}s 0 to {limit - 1}")
    if outside := [number for number in chosen if not 0 <= number < limit]:
        raise XmsimError(f"{model.name}: no {what} {outside[0]}; it has {what}s 0 to {limit - 1}")
