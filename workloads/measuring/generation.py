"""A model that generates, timed on this host: its linear layers one by one, then prefill and decode, dense and sparse in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.reference.kernels.cuda import build
from xmsim.reference.kernels.cuda.native import cuda_library
from xmsim.workloads.attachment.activation_plan import ActivationPlan, ActivationSparsity
from xmsim.workloads.attachment.attach import attach
from xmsim.workloads.attachment.greedy_record import read_greedy
from xmsim.workloads.measuring.generate_timing import time_generation
from xmsim.workloads.measuring.generation_profile import profile_generation
from xmsim.workloads.measuring.generation_record import GenerationRecord, GenerationRun, LinearRun
from xmsim.workloads.measuring.host import available_cores, describe_host
from xmsim.workloads.measuring.linear_timing import checked_error, time_linear
from xmsim.workloads.measuring.linear_variants import SPDP, TEAL, TORCH, TWO_FOUR, LinearVariants
from xmsim.workloads.measuring.reached_sparsity import with_sparsity
from xmsim.workloads.measuring.static_decoding import time_graphs
from xmsim.workloads.measuring.threads import thread_limit
from xmsim.workloads.models import native_attention
from xmsim.workloads.models.linear_exchange import gpu_kinds, linear_layers, restore_layers, set_thresholds, share_of_experts
from xmsim.workloads.models.loading import LoadedModel, load_model
from xmsim.workloads.models.shape import load_shape, random_model

ATTENTION_BACKENDS = ("sdpa", "eager", "flash_attention_2")  # transformers' own; besides there is our dense kernel, and methods
DTYPES = ("bfloat16", "float32", "float16")
Progress = Callable[[str, int, int], None]  # (what, done, of how many)


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What to measure."""

    model: str | None = None  # as load_model takes it, or
    shape: str | None = None  # as load_shape takes it, with random weights
    kernels: tuple[str, ...] = (TORCH, "packed", "bitmap")
    sparsity: float | None = 0.5  # pruned by magnitude, each layer alike; None: weights as they are
    dynamic_sparsity: float | None = None  # share of the inputs that kernels spdp and teal skip when they decode; needs histograms
    histograms: Path | None = None  # and greedy and scoring: as in ActivationPlan
    greedy: Path | None = None
    scoring: str = "teal"
    include: tuple[str, ...] | None = None  # as in sparsify
    attention: str = "sdpa"
    device: str = "cpu"
    graph: bool = True  # on a GPU, besides eager runs: tokens replayed as a CUDA graph
    dtype: str = "bfloat16"
    batch: int = 1
    input_tokens: int = 128
    new_tokens: int = 32
    warmup: int = 1
    repeat: int = 5
    threads: int | None = None  # None: all cores this process may use
    save_per_token: bool = False
    layer_repeats: int = 25  # of each linear layer; 0 leaves them out
    allow_dense: bool = False  # go on where a kernel is missing, on torch's dense product
    profile: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("input_tokens", 1), ("new_tokens", 2), ("warmup", 0), ("repeat", 2), ("layer_repeats", 0)):
            if getattr(self, name) < least:
                raise XmsimError(f"{name}: {getattr(self, name)} is too few; choose at least {least}")
        if self.dtype not in DTYPES:
            raise XmsimError(f"dtype: no {self.dtype}; our kernels compute in {', '.join(DTYPES)}")
        if self.device != "cpu":
            _check_gpu(self)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise XmsimError(f"sparsity: {self.sparsity} is not a share; choose at least 0 and less than 1")
        if (self.dynamic_sparsity is None) != (self.histograms is None):
            raise XmsimError("dynamic sparsity needs a share and the histograms that its thresholds come from; give both or neither")
        if self.dynamic_sparsity is not None and not {SPDP, TEAL} & set(self.kernels):
            raise XmsimError(f"dynamic sparsity: kernels {SPDP} and {TEAL} alone skip inputs, and none is among {', '.join(self.kernels)}")
        if self.dynamic_sparsity is None and (self.greedy is not None or self.scoring != "teal"):
            raise XmsimError("greedy sparsities and scoring are for dynamic sparsity; give it, e.g. 0.5, or leave them out")


def measure_generation(plan: GenerationPlan, progress: Progress = lambda what, done, steps: None) -> GenerationRecord:
    """Time what the plan says; every linear kernel is checked against float64 before.

    Raises:
        XmsimError: no such model, kernel or method, a kernel that this host lacks (unless the plan allows dense ones), too many threads.
    """
    on_gpu = plan.device != "cpu"
    if any(kernel != TORCH for kernel in plan.kernels) and not on_gpu and native.library() is None and not plan.allow_dense:
        raise XmsimError("the kernels are not compiled on this host, and torch's dense product is not what was asked for; --allow-dense")
    threads = available_cores() if plan.threads is None else plan.threads
    with thread_limit(threads), native.pinned_threads(native.default_threads()):
        loaded, weights = _model(plan)
        model = loaded.model
        if plan.attention in ATTENTION_BACKENDS:
            _use_attention(model, plan.attention)
        elif plan.attention == native_attention.NAME:
            native_attention.use_native_attention(model)
        if TWO_FOUR in plan.kernels:
            _check_fours(linear_layers(model, include=plan.include))
        experts = share_of_experts(model)
        shapes: dict[tuple[int, int], Any] = {}  # the first layer of each
        for layer in linear_layers(model, include=plan.include).values():
            shapes.setdefault(_shape_of(layer), layer)
        linears: list[LinearRun] = []
        for done, ((in_features, out_features), layer) in enumerate(shapes.items() if plan.layer_repeats and not on_gpu else ()):
            progress("layer shapes", done, len(shapes))
            linears += time_linear(
                *(in_features, out_features, plan.kernels),
                sparsity=_zeros(layer) if plan.sparsity is None else plan.sparsity,
                dynamic_sparsity=plan.dynamic_sparsity or 0.0,
                tokens=plan.batch,
                dtype=plan.dtype,
                threads=threads,
                repeats=plan.layer_repeats,
            )
        variants = LinearVariants(
            model,
            plan.kernels,
            sparsity=plan.sparsity,
            include=plan.include,
            progress=lambda done, layers: progress("prepare layers", done, layers),
        )
        if on_gpu:
            _check_layers(variants, plan.batch)
        activations = _activations(plan, loaded, progress)
        if activations:
            for kernel in (SPDP, TEAL):
                set_thresholds(variants.layers.get(kernel, {}), activations.thresholds)
        with ExitStack() as stack:
            if plan.attention not in (*ATTENTION_BACKENDS, native_attention.NAME):
                stack.enter_context(attach(model, plan.attention))
            prompt = _prompt(model, plan)
            generations: tuple[GenerationRun, ...] = ()
            for timed in (time_graphs, time_generation) if on_gpu and plan.graph else (time_generation,):
                generations += timed(
                    *(model, variants, prompt),
                    new_tokens=plan.new_tokens,
                    warmup=plan.warmup,
                    repeat=plan.repeat,
                    attention=plan.attention,
                    save_per_token=plan.save_per_token,
                    progress=lambda done, rounds: progress("generate", done, rounds),
                )
            generations = with_sparsity(generations, model, variants, prompt, plan.new_tokens)
            profiles = profile_generation(model, variants, prompt, plan.new_tokens) if plan.profile else {}
    conditions = {
        "device": plan.device,
        "dtype": plan.dtype,
        "batch": plan.batch,
        "input_tokens": plan.input_tokens,
        "new_tokens": plan.new_tokens,
        "sparsity": plan.sparsity,
        "dynamic_sparsity": plan.dynamic_sparsity,
        "scoring": plan.scoring if activations else None,
        "histograms_sha256": activations.histograms_sha256 if activations else None,
        "greedy_sha256": activations.greedy_sha256 if activations else None,
        "include": None if plan.include is None else list(plan.include),
        "experts": round(experts, 3) or None,  # share of the model's weights, which no kernel of ours takes
        "threads": threads,
        "pinned": True,
        "pages": "huge where the system has them",
        "warmup": plan.warmup,
        "repeat": plan.repeat,
        "isa": native.offered_isa(),
    }
    return GenerationRecord(describe_host(), {"name": loaded.name, "weights": weights}, conditions, tuple(linears), generations, profiles)


def _model(plan: GenerationPlan) -> tuple[LoadedModel, str]:
    if (plan.model is None) == (plan.shape is None):
        raise XmsimError("a plan names a model or a shape, and not both")
    if plan.shape is not None:
        name = Path(plan.shape).stem if plan.shape.endswith((".yaml", ".yml")) else plan.shape
        network = random_model(load_shape(plan.shape), dtype=plan.dtype).to(plan.device)
        return LoadedModel(network, None, name, network.config.model_type), "random"
    loaded = load_model(str(plan.model), dtype=plan.dtype, device=plan.device, tokenizer=False)
    restore_layers(loaded.model)  # of a packed folder
    if not hasattr(loaded.model, "generate") or loaded.model.get_output_embeddings() is None:
        raise XmsimError(f"{loaded.name}: generates no text; give a causal language model")
    return loaded, "trained"


def _activations(plan: GenerationPlan, loaded: LoadedModel, progress: Progress) -> ActivationSparsity | None:
    """Thresholds of the pruned layers, if the plan asks for any. A policy is for tokens that come together, and decoding has none:
    greedy sparsities are taken as they were searched."""
    if plan.dynamic_sparsity is None or plan.histograms is None:
        return None
    searched = {"policy": read_greedy(plan.greedy).policy} if plan.greedy is not None and plan.greedy.exists() else {}
    asked = ActivationPlan(plan.dynamic_sparsity, plan.histograms, scoring=plan.scoring, greedy=plan.greedy, **searched)
    return asked.prepare(loaded, lambda done, blocks: progress("greedy sparsities", done, blocks))


def _check_fours(layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        if (inputs := _shape_of(layer)[0]) % 4:
            raise XmsimError(
                f"{name}: its {inputs} inputs are no whole number of fours, which kernel 2:4 needs; leave it out with --include"
            )


def _check_gpu(plan: GenerationPlan) -> None:
    import torch

    if not plan.device.startswith("cuda"):
        raise XmsimError(f"device: no {plan.device}; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise XmsimError(f"device {plan.device}: torch finds no CUDA GPU on this host; use --device cpu")
    if plan.attention == native_attention.NAME:
        raise XmsimError(f"attention {plan.attention} is the CPU's; on {plan.device} choose {', '.join(ATTENTION_BACKENDS)} or a method")
    if not (ours := [kernel for kernel in plan.kernels if kernel != TORCH]):
        return
    if others := [kernel for kernel in ours if kernel not in gpu_kinds()]:
        raise XmsimError(f"kernel {others[0]} runs on the CPU only; on {plan.device} there are {', '.join((TORCH, *gpu_kinds()))}")
    if plan.dtype == "float32":
        raise XmsimError(f"dtype float32: kernel {ours[0]} computes in bfloat16 or float16 on a GPU; choose one with --dtype")
    if cuda_library() is None:
        raise XmsimError(
            f"kernel {ours[0]}: the CUDA kernels are not built; install xmsim where nvcc is, or run python -m {build.__name__}"
        )


def _check_layers(variants: LinearVariants, sequences: int) -> None:
    """Each kernel on the first layer of each shape, against float64."""
    import torch

    plain = variants.layers[TORCH]
    for name in {(layer.in_features, layer.out_features): name for name, layer in reversed(plain.items())}.values():
        layer = plain[name]
        x = torch.randn(sequences, 1, layer.in_features, device=layer.weight.device).to(layer.weight.dtype)
        for kernel, layers in variants.layers.items():
            checked_error(layers[name], layer, x, kernel)


def _use_attention(model: Any, backend: str) -> None:
    own = model.config._attn_implementation
    if own == backend:
        return
    if not model._can_set_attn_implementation():  # setting it would log a warning and do nothing
        raise XmsimError(f"attention {backend}: {model.config.model_type} keeps its own; choose {own}")
    try:
        model.set_attn_implementation(backend)
    except (ImportError, ValueError) as error:  # a package or a GPU that it needs is missing
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise XmsimError(
            f"attention {backend} is not possible here ({reason}); choose another of {', '.join(ATTENTION_BACKENDS)}"
        ) from error


def _shape_of(layer: Any) -> tuple[int, int]:
    """(in, out) of an nn.Linear or a Conv1D."""
    first, second = layer.weight.shape
    return (second, first) if type(layer).__name__ == "Linear" else (first, second)


def _zeros(layer: Any) -> float:
    """The share of zeros among the weights of a layer."""
    return float((layer.weight == 0).float().mean())


def _prompt(model: Any, plan: GenerationPlan) -> Any:
    import torch

    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and plan.input_tokens + plan.new_tokens > limit:
        raise XmsimError(f"{plan.input_tokens} + {plan.new_tokens} tokens do not fit the {limit} positions of this model; ask for fewer")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (plan.batch, plan.input_tokens), generator=generator).to(plan.device)


def kernels_of(names: Sequence[str]) -> tuple[str, ...]:
    """Kernels in the order given, torch's first, each once."""
    return tuple(dict.fromkeys((TORCH, *names)))
