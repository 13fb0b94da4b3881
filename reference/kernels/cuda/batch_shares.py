"""Sequences of different lengths that are decoded together: how their words are shared out among blocks of threads (batch_shares.h)."""

from __future__ import annotations

from ctypes import c_int, c_void_p
from dataclasses import dataclass

import torch

from xmsim.reference.kernels.attention import WORD_KEYS
from xmsim.reference.kernels.cuda.native import check_tensor, is_emulated

MOST_TOKENS = 1 << 24  # of a sequence: as many keys as the kernels' lists can tell apart
SHARES_ARGUMENTS = (c_void_p, *[c_int] * 6)  # of a kernel, its last
_FEW = 3  # shares of a walk; where fewer would fill the GPU, finer ones leave less to the last wave
_FINE = 4


@dataclass(frozen=True, slots=True)
class Shares:
    """Who takes what, as far as the host knows: lengths on the device change between replays of a graph."""

    lengths: torch.Tensor | None  # int32 [sequences] on the device; None: all have `room`
    sequences: int
    room: int  # tokens
    wanted: int  # shares of all sequences together; without lengths those of each
    least: int  # words of a share
    most: int

    @classmethod
    def of(
        cls, room: int, sequences: int, lengths: torch.Tensor | None, *, walks: int, blocks: int, least: int, most: int = MOST_TOKENS
    ) -> Shares:
        """Shares of so many walks over each sequence's words that fill a GPU that runs so many blocks of threads at once."""
        blocks = 3 * walks * sequences if is_emulated() else blocks
        each, words = blocks // (walks * sequences), -(-room // WORD_KEYS)
        if lengths is None:
            return cls(None, sequences, room, max(1, min(each, -(-words // least)), -(-words // most)), least, most)
        return cls(lengths, sequences, room, blocks // walks if each >= _FEW else _FINE * sequences, least, most)

    @property
    def count(self) -> int:
        """Shares of all sequences, whatever their lengths."""
        if self.lengths is None:
            return self.wanted * self.sequences
        words = -(-self.room // WORD_KEYS)
        # a sequence has its part of the wanted ones, rounded down, or what makes none too long: one if it has any words
        return min(self.wanted + self.sequences * -(-words // self.most), self.sequences * -(-words // self.least))

    @property
    def arguments(self) -> tuple[int | None, ...]:
        """What the kernels are given, as SHARES_ARGUMENTS; the count of blocks comes last."""
        lengths = None if self.lengths is None else self.lengths.data_ptr()
        return lengths, self.sequences, self.room, self.wanted, self.least, self.most, self.count


def check_lengths(lengths: torch.Tensor, sequences: int) -> None:
    """Refuse lengths that the kernels cannot read; what they say stays on the device.

    Raises:
        ValueError: naming the argument.
    """
    check_tensor("lengths", lengths, dtypes=(torch.int32,), axes=1, alignment=4)
    if len(lengths) != sequences:
        raise ValueError(f"lengths: {len(lengths)} are not one for each of {sequences} sequences")
