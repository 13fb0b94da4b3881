"""How perplexity protocols cut a text: which tokens a model reads at once, and which of them are scored.

The text is encoded once, with the tokens that the tokenizer puts around a text (so Llama's beginning of sequence opens the
first window and no other), and what no longer fills a window is dropped. The loss of a window is the mean cross entropy of
its scored tokens; perplexity is exp(mean of the windows' losses). All windows score equally many tokens, so weighting them
by tokens changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xmsim.configs.errors import XmsimError, nearest


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows of one size at even distances, of which the last tokens are scored."""

    tokens: int  # that the model reads at once
    stride: int  # tokens from the start of a window to the start of the next
    scored: int  # the last so many tokens of each window

    def starts(self, text_tokens: int) -> range:
        """Where the whole windows of a text of so many tokens begin."""
        return range(0, text_tokens - self.tokens + 1, self.stride)


def consecutive_windows(length: int) -> WindowPlan:
    """Windows of `length` tokens that do not overlap; all tokens but the first are scored.

    Source: coralabo/DynaX, dataUtil.py (perplexity); locuslab/wanda, lib/eval.py (eval_ppl_wikitext). Both weight each
    window's loss by its tokens; they differ in nothing but the texts they were run on.
    """
    return WindowPlan(tokens=length, stride=length, scored=length - 1)


def sliding_windows(length: int) -> WindowPlan:
    """`length` tokens of context and a quarter of that to score, moving on by what was scored: 2048 + 512.

    Source: FasterDecoding/TEAL, utils/eval_ppl.py, whose only size is 2048 + 512; other lengths keep its proportion.
    """
    scored = length // 4
    return WindowPlan(tokens=length + scored, stride=scored, scored=scored)


PROTOCOLS: dict[str, Callable[[int], WindowPlan]] = {
    "dynax": consecutive_windows,
    "wanda": consecutive_windows,
    "teal": sliding_windows,
}


def window_plan(protocol: str, length: int) -> WindowPlan:
    """How a protocol cuts at a length, in tokens.

    Raises:
        XmsimError: no such protocol, or it scores nothing at this length.
    """
    if protocol not in PROTOCOLS:
        raise XmsimError(f"no protocol {protocol}; {nearest(protocol, tuple(PROTOCOLS))}")
    plan = PROTOCOLS[protocol](length)
    if plan.scored < 1:
        raise XmsimError(f"protocol {protocol} scores no token at length {length}; give a larger --length")
    return plan
