"""Train xm-tiny, the small Llama that ships with xmsim, from plain text.

    python train.py --text corpus.txt.xz --text wiki_valid.txt:4 --valid held_out.txt.xz --test wiki_test.txt --work run --out model

The script stands alone on purpose: it imports torch, numpy, tokenizers, safetensors and transformers, nothing of xmsim, so
that it runs unchanged on a bare GPU host. torch must be 2.9 or later, which has Muon. Batches depend on (seed, step) alone,
so an interrupted run resumes on the batches it would have seen.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of a run besides the text."""

    seed: int
    tokens: int  # tokens trained on, in all
    batch_tokens: int  # tokens a step
    short_context: int  # context of the first part of the run, in tokens
    context: int  # context of the last part, in tokens
    long_share: float  # share of the tokens trained at the long context
    decay_share: float  # share of the tokens over which the learning rates fall to zero
    matrix_rate: float  # Muon, for the matrices of the layers
    other_rate: float  # AdamW, for embedding and norms
    sharpen_step: int  # before this step the first layer's scores are sharpened once, see `sharpen_first_layer`
    sharpen_factor: float  # by this factor
    vocabulary: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / self.batch_tokens)

    def context_at(self, step: int) -> int:
        return self.context if step >= self.steps * (1 - self.long_share) else self.short_context

    def rate_at(self, step: int) -> float:
        """Factor on the learning rates: linear warm-up over 2 %, constant, then linear decay to zero."""
        warm_up = max(1, round(0.02 * self.steps))
        decay = max(1, round(self.decay_share * self.steps))
        return min((step + 1) / warm_up, 1.0, (self.steps - step) / decay)


def read_text(path: Path) -> str:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return file.read()


def train_tokenizer(texts: list[Path], vocabulary: int, out: Path) -> Tokenizer:
    """Byte-level BPE: every byte string is encodable, so no text is out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (line for path in texts for line in read_text(path).splitlines(keepends=True))
    tokenizer.train_from_iterator(lines, trainer)
    write_atomically(out, lambda path: tokenizer.save(str(path)))
    return tokenizer


def encode(tokenizer: Tokenizer, path: Path, repeat: int) -> np.ndarray:
    """Token ids of a text, `repeat` times over; uint16 [tokens]."""
    lines = read_text(path).splitlines(keepends=True)
    chunks = ["".join(lines[i : i + 1000]) for i in range(0, len(lines), 1000)]
    ids = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch(chunks)])
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)], dtype=np.uint16)
    return np.tile(np.concatenate([ids, end]), repeat)


@dataclass(frozen=True)
class HeldOut:
    """A text that is scored and not trained on."""

    ids: np.ndarray  # uint16 [tokens]
    text_bytes: int


def held_out(tokenizer: Tokenizer, path: Path) -> HeldOut:
    return HeldOut(encode(tokenizer, path, 1), len(read_text(path).encode()))


def prepare(texts: list[str], vocabulary: int, work: Path) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer and the training ids; made once and kept in `work`."""
    files = [(Path(name), int(repeat or 1)) for name, _, repeat in (text.partition(":") for text in texts)]
    train_file, tokenizer_file = work / "train.npy", work / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer([path for path, _ in files], vocabulary, tokenizer_file)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if not train_file.exists():
        ids = np.concatenate([encode(tokenizer, path, repeat) for path, repeat in files])
        write_atomically(train_file, lambda path: save_array(path, ids))
    return tokenizer, np.load(train_file, mmap_mode="r")


def batch_at(ids: np.ndarray, step: int, plan: Plan) -> torch.Tensor:
    """int64 [sequences, context + 1] of step `step`, at places drawn from (seed, step)."""
    context = plan.context_at(step)
    draw = np.random.default_rng([plan.seed, step])
    starts = draw.integers(0, len(ids) - context - 1, size=plan.batch_tokens // context)
    return torch.from_numpy(np.stack([ids[s : s + context + 1].astype(np.int64) for s in starts]))


def build_model(plan: Plan) -> LlamaForCausalLM:
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.hidden,
        intermediate_size=plan.feed_forward,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.kv_heads,
        head_dim=64,
        max_position_embeddings=max(plan.context, 2048),
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def sharpen_first_layer(model: LlamaForCausalLM, factor: float) -> None:
    """Multiply the first layer's attention scores by `factor` and leave its values as they are.

    One gain scales queries, keys and values of a layer. Tied embeddings make the first layer's input small, so AdamW shrinks
    that gain to give values of the right size, and with its square the scores: all heads end up attending to everything alike.
    """
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.input_layernorm.weight *= factor**0.5
        layer.self_attn.v_proj.weight /= factor**0.5


def loss_of(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def score(model: torch.nn.Module, text: HeldOut, context: int, device: str, limit: int | None = None) -> dict[str, float]:
    """Loss on the first `limit` tokens of a text, in windows of `context` that do not overlap and share no state."""
    ids = text.ids[:limit]
    losses = []
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        for start in range(0, len(ids) - context, context):
            window = torch.from_numpy(ids[None, start : start + context + 1].astype(np.int64)).to(device)
            losses.append(loss_of(model, window).item())
    loss = sum(losses) / len(losses)
    bits_per_byte = loss / math.log(2) * len(text.ids) / text.text_bytes
    return {"tokens": len(losses) * context, "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits_per_byte}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.replace(path)


def save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, np.save would add an ending of its own
        np.save(file, array)


def write_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], progress: dict) -> None:
    """Weights and optimizer states as safetensors, the rest as JSON in its metadata: nothing in it can run when it is read."""
    tensors = {f"model/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{name}": tensor for name, tensor in state.items()}
    save_file(tensors, path, metadata={"progress": json.dumps(progress)})


def read_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], plan: Plan) -> dict:
    """Put weights and optimizer states back; returns the progress that was written with them."""
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        if progress["plan"] != asdict(plan):
            raise SystemExit(f"{path}: made with another plan; pass the same options, or another --work")
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
        for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            owner, _, rest = key.partition("/")
            if owner == "model":
                with torch.no_grad():
                    model.get_parameter(rest).copy_(file.get_tensor(key))
            else:
                number, index, name = rest.split("/")
                states[int(number)].setdefault(int(index), {})[name] = file.get_tensor(key)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def export(model: LlamaForCausalLM, plan: Plan, record: dict, work: Path, out: Path) -> None:
    """Write an HF folder in bfloat16, and the training record beside it."""
    out.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
        "model_max_length": plan.context,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1) + "\n")
    facts = {"plan": asdict(plan), "parameters": model.num_parameters()}
    (out / "training.json").write_text(json.dumps(facts | record, indent=1) + "\n")


def train(plan: Plan, ids: np.ndarray, valid: HeldOut, test: HeldOut | None, args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(plan).to(device)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers" in name)]
    optimizers = [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    first, seconds, curve = 0, 0.0, []
    checkpoint_file = args.work / "checkpoint.safetensors"
    if checkpoint_file.exists():
        saved = read_checkpoint(checkpoint_file, model, optimizers, plan)
        first, seconds, curve = saved["step"], saved["seconds"], saved["curve"]
    # dynamic=False: the two contexts are compiled once each
    forward = torch.compile(model, dynamic=False) if args.compile else model

    def record() -> dict:
        host = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
        return {
            "trained_tokens": curve[-1]["tokens"] if curve else 0,
            "trained_seconds": round(seconds),
            "trained_on": host,
            "curve": curve,
        }

    def save(step: int) -> None:
        progress = {"plan": asdict(plan), "step": step, "seconds": seconds, "curve": curve}
        write_atomically(checkpoint_file, lambda path: write_checkpoint(path, model, optimizers, progress))
        export(model, plan, record(), args.work, args.out)

    last_saved = last = time.monotonic()
    for step in range(first, plan.steps):
        if step == plan.sharpen_step:
            sharpen_first_layer(model, plan.sharpen_factor)
        for optimizer, rate in zip(optimizers, (plan.matrix_rate, plan.other_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * plan.rate_at(step)
        batch = batch_at(ids, step, plan).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(forward, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        done = step + 1
        if done % args.validate_steps == 0 or done == plan.steps:
            scores = score(model, valid, plan.context, device, args.validate_tokens)
            point = {"step": done, "tokens": done * plan.batch_tokens, "train_loss": round(loss.item(), 4)}
            curve.append(point | {"valid_loss": round(scores["loss"], 4), "valid_perplexity": round(scores["perplexity"], 3)})
            print(json.dumps(curve[-1] | {"tokens_per_s": round(done * plan.batch_tokens / seconds)}), flush=True)
        elif done % 20 == 0:
            print(f"step {done}/{plan.steps} loss {loss.item():.3f} {done * plan.batch_tokens / seconds:.0f} tokens/s", flush=True)
        if now - last_saved > args.checkpoint_minutes * 60 or done == plan.steps:
            save(done)
            last_saved = time.monotonic()
    final = {"valid": score(model, valid, plan.context, device)}
    if test:
        final["test"] = score(model, test, plan.context, device)
    export(model, plan, record() | final, args.work, args.out)
    print(json.dumps(final), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", required=True, help="text or .xz, optionally FILE:REPEATS; may be given more than once")
    parser.add_argument("--valid", type=Path, required=True, help="held-out text for the validation curve")
    parser.add_argument("--test", type=Path, help="text scored once, at the end; never trained on")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokens and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (needs a C++ compiler on a CPU)")
    parser.add_argument("--checkpoint-minutes", type=float, default=10)
    parser.add_argument("--validate-steps", type=int, default=200)
    parser.add_argument("--validate-tokens", type=int, default=65536)
    plan = parser.add_argument_group("plan")
    plan.add_argument("--seed", type=int, default=1810)
    plan.add_argument("--tokens", type=int, default=20_480_000)
    plan.add_argument("--batch-tokens", type=int, default=8192)
    plan.add_argument("--short-context", type=int, default=256)
    plan.add_argument("--context", type=int, default=2048)
    plan.add_argument("--long-share", type=float, default=0.3)
    plan.add_argument("--decay-share", type=float, default=0.48)
    plan.add_argument("--matrix-rate", type=float, default=4e-3)
    plan.add_argument("--other-rate", type=float, default=4e-3)
    plan.add_argument("--sharpen-step", type=int, default=1313)
    plan.add_argument("--sharpen-factor", type=float, default=3.0)
    plan.add_argument("--vocabulary", type=int, default=4096)
    plan.add_argument("--layers", type=int, default=6)
    plan.add_argument("--hidden", type=int, default=256)
    plan.add_argument("--heads", type=int, default=4)
    plan.add_argument("--kv-heads", type=int, default=2)
    plan.add_argument("--feed-forward", type=int, default=704)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = Plan(**{name: getattr(args, name) for name in Plan.__dataclass_fields__})
    tokenizer, ids = prepare(args.text, chosen.vocabulary, args.work)
    valid = held_out(tokenizer, args.valid)
    test = held_out(tokenizer, args.test) if args.test else None
    print(f"{len(ids)} training tokens, {chosen.steps} steps", flush=True)
    train(chosen, ids, valid, test, args)


if __name__ == "__main__":
    main()
