"""What the GPU benchmark measures: every size is data, so that a test drives the same code with small ones."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of one run."""

    rounds: int  # of contenders that take turns
    short_calls: int  # of a kernel, that make a graph where a call is short
    copied_elements: int  # float32, of the copy that is a ceiling
    product_size: int  # of the square product that is one
    heads: int  # attention in the shape of one layer
    kv_heads: int
    decode_tokens: tuple[int, ...]
    decode_batches: tuple[tuple[int, int], ...]  # sequences, and tokens of each
    decode_density: float
    prefill_tokens: tuple[int, ...]
    flex_tokens: tuple[int, ...]  # those of them where FlexAttention skips tiles, too: compiling it for a mask takes seconds
    live_shares: tuple[float, ...]  # of the tiles at or below the diagonal
    kept_shares: tuple[float, ...]  # of the keys, the same for 64 neighbouring queries
    mask_tokens: tuple[int, ...]
    linear: tuple[tuple[int, ...], ...]  # out_features, in_features
    sparsities: tuple[float, ...]
    linear_tokens: tuple[int, ...]
    most_copies: int  # of operands, which together are larger than the second-level cache
    checked_prefill_tokens: int  # what is checked against float64 beside the timing
    checked_decode_tokens: int
    checked_mask_tokens: int
    rate_rounds: int  # of the loops of instructions
    read_bytes: int  # from memory, in one pass
    gathered_shares: tuple[float, ...]  # of their rows of 256 bytes, that are read
    host_bytes: int  # of the copy on the host
    host_tokens: int  # of torch's attention on the host


FULL = Shapes(
    rounds=50,
    short_calls=20,
    copied_elements=1 << 28,
    product_size=8192,
    heads=32,  # of a Llama-3-8B layer
    kv_heads=8,
    decode_tokens=(4096, 16384, 32768, 131072),
    decode_batches=((8, 16384),),
    decode_density=0.1,
    prefill_tokens=(4096, 16384, 32768),
    flex_tokens=(16384,),
    live_shares=(0.1, 0.2, 0.35, 1.0),
    kept_shares=(0.1,),
    mask_tokens=(4096, 16384, 32768),
    linear=((4096, 4096), (14336, 4096), (4096, 14336), (28672, 8192)),  # Llama-3-8B's, and one of 70B
    sparsities=(0.5, 0.6),
    linear_tokens=(1, 8, 16),
    most_copies=16,
    checked_prefill_tokens=1024,
    checked_decode_tokens=4096,
    checked_mask_tokens=300,
    rate_rounds=4096,
    read_bytes=1 << 32,
    gathered_shares=(0.05, 0.1, 0.25, 0.5, 1.0),
    host_bytes=1 << 30,
    host_tokens=4096,
)
QUICK = replace(
    FULL,
    decode_tokens=(4096, 32768),
    prefill_tokens=(4096,),
    flex_tokens=(4096,),
    mask_tokens=(4096,),
    linear=FULL.linear[:2],
    linear_tokens=(1,),
)
