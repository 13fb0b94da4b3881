"""Which pairs the dense model computes, asked for a block of queries at a time: no mask over all queries and keys is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from xmsim.workloads.models.loading import ModelError

# (window, head, query, key) -> whether the pair is allowed; integer tensors that broadcast, transformers' mask functions
PairRule = Callable[[Any, Any, Any, Any], Any]
_OWN_MASK = "this model changes its attention mask by a function of its own, which an attached method cannot follow"
_FIXED_CACHE = "an attached method needs a cache that grows with the text; leave cache_implementation at its default"


@dataclass(frozen=True, slots=True, eq=False)
class WindowPairs:
    """The pairs of all windows of a batch, or of one window with its padding cut off.

    Positions count the tokens of a window from 0, those that a cache holds or has dropped included.
    """

    windows: range
    rows: Any  # int64 tensor, places of the tokens among the queries given; None: nothing is cut off
    columns: Any  # among the keys given, likewise
    query_offset: int  # position of the first query
    key_offset: int  # position of the first key: a sliding window's cache drops those before
    rule: PairRule
    rule_queries: Any  # int64 tensors, the queries and keys as the rule counts them: padding included
    rule_keys: Any

    def block(self, windows: range, first: int, last: int) -> WindowPairs:
        """Queries first to last - 1 of some of these windows, counted from 0."""
        return replace(
            self,
            windows=self.windows[windows.start : windows.stop],
            query_offset=self.query_offset + first,
            rule_queries=self.rule_queries[first:last],
        )

    def allowed(self) -> Any:
        """Whether the dense model computes the pairs; bool [windows or 1, 1, queries, keys]."""
        import torch

        windows = torch.arange(self.windows.start, self.windows.stop, device=self.rule_keys.device)
        window, query, key = windows[:, None, None, None], self.rule_queries[:, None], self.rule_keys
        allowed = self.rule(window, torch.zeros_like(window), query[None, None], key[None, None, None])
        return allowed.expand(-1, -1, len(query), len(key))


class _NoTensor(ModelError, AttributeError):
    """A mask was asked for what only a tensor has."""


@dataclass(frozen=True, slots=True, eq=False)
class AttachedMask:
    """What the attention layers of a model are given in place of a mask tensor."""

    queries: int  # padding included, here and below
    keys: int
    query_offset: int
    parts: tuple[WindowPairs, ...]  # windows without a token among the queries are left out

    def contiguous(self) -> NoReturn:
        """What generate() asks of a mask that it makes itself, as it does for a cache of fixed length.

        Raises:
            ModelError: always.
        """
        raise ModelError(_FIXED_CACHE)

    def __getattr__(self, name: str) -> NoReturn:
        """What a model asks of a mask that it goes on to change, e.g. its dtype.

        Raises:
            ModelError: always; hasattr() says no.
        """
        raise _NoTensor(_OWN_MASK)


def build_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any,
    kv_offset: int,
    mask_function: PairRule,
    attention_mask: Any,
    use_vmap: bool,
    device: Any,
    **unused: Any,
) -> AttachedMask:
    """The mask of one forward pass; transformers calls this in place of its own builders.

    Raises:
        ModelError: the cache is of fixed length, or the model changes its mask by a function of its own.
    """
    if not isinstance(q_offset, int) or q_offset + q_length != kv_offset + kv_length:
        raise ModelError(_FIXED_CACHE)
    if use_vmap:
        raise ModelError(_OWN_MASK)
    queries, keys = range(q_offset, q_offset + q_length), range(kv_offset, kv_offset + kv_length)
    return _mask(mask_function, queries, keys, batch_size, device, valid=attention_mask)


def given_mask(mask: Any, windows: int) -> AttachedMask:
    """A mask that a model or its user made: bool, or 0 and very negative; [windows or 1, 1, queries, keys].

    Raises:
        ModelError: it is something else.
    """
    import torch

    if mask.ndim != 4 or mask.shape[0] not in (1, windows) or mask.shape[1] != 1:
        raise ModelError(f"attention mask: [windows, 1, queries, keys] is needed, got shape {list(mask.shape)}")
    allowed = mask
    if mask.dtype != torch.bool:
        allowed = mask > torch.finfo(mask.dtype).min / 2
        if mask[allowed].any():
            raise ModelError("attention mask: it adds a bias of its own to the scores, which an attached method cannot follow")
    queries, keys = mask.shape[2:]
    offset = keys - queries  # the last query sees the last key
    return _mask(
        lambda window, head, query, key: allowed[window % len(allowed), head, query - offset, key],
        range(offset, keys),
        range(keys),
        windows,
        mask.device,
    )


def full_mask(windows: int, queries: int, keys: int, device: Any) -> AttachedMask:
    """Every query sees every key."""
    return _mask(lambda window, head, query, key: query >= 0, range(keys - queries, keys), range(keys), windows, device)


def _mask(rule: PairRule, queries: range, keys: range, windows: int, device: Any, valid: Any = None) -> AttachedMask:
    """`valid` is bool [windows, keys.stop or more] and False at padding; None: no padding."""
    import torch

    rule_queries, rule_keys = (torch.arange(indices.start, indices.stop, device=device) for indices in (queries, keys))
    if valid is None or valid[:, : keys.stop].all():
        whole = WindowPairs(range(windows), None, None, queries.start, keys.start, rule, rule_queries, rule_keys)
        return AttachedMask(len(queries), len(keys), queries.start, (whole,))
    parts = []
    for window, tokens in enumerate(valid.cpu()):
        rows, columns = (tokens[indices.start : indices.stop].nonzero()[:, 0].to(device) for indices in (queries, keys))
        if len(rows):
            query_offset, key_offset = (int(tokens[: indices.start].sum()) for indices in (queries, keys))
            one = range(window, window + 1)
            parts.append(WindowPairs(one, rows, columns, query_offset, key_offset, rule, rule_queries[rows], rule_keys[columns]))
    return AttachedMask(len(queries), len(keys), queries.start, tuple(parts))
