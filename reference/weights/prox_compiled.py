"""The proximal operator for the CPU, compiled: blocks in groups that fit the vector registers and the first cache."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_GROUP = 32  # blocks that are swept side by side
_PIECE = 256  # groups that one task works off


@njit(parallel=True, cache=True)
def solve(blocks, strength, sweeps_of_three, sweeps_of_four, most_sweeps):  # type: ignore[no-untyped-def]
    """As `prox_operator._solve_in_torch`, on float [blocks, 4] in C order and a strength of the same number format."""
    count = len(blocks)
    piece_blocks = _GROUP * _PIECE
    pieces = (count + piece_blocks - 1) // piece_blocks
    result = np.empty_like(blocks)
    changes = np.zeros((pieces, 2, most_sweeps, _GROUP), np.float64)
    for piece in prange(pieces):
        u = np.zeros((4, _GROUP), blocks.dtype)
        three = np.zeros((4, _GROUP), blocks.dtype)
        four = np.zeros((4, _GROUP), blocks.dtype)
        change = np.zeros(_GROUP, blocks.dtype)
        order = np.zeros((_GROUP, 4), np.int64)
        for first in range(piece * piece_blocks, min(count, (piece + 1) * piece_blocks), _GROUP):
            members = min(_GROUP, count - first)
            u[:] = 0  # a group that is not full sweeps zeros, which never move
            for k in range(members):
                _sort(blocks[first + k], order[k], u, k)
            _sweep_three(u, strength, sweeps_of_three, three, change, changes[piece, 0])
            _sweep_four(u, strength, sweeps_of_four, four, change, changes[piece, 1])
            for k in range(members):
                _choose(blocks[first + k], order[k], u[:, k], three[:, k], four[:, k], strength, result[first + k])
    return result, changes.sum(axis=3).sum(axis=0)


@njit(cache=True, inline="always")
def _sort(block, order, u, k):  # type: ignore[no-untyped-def]
    """Column k of u: magnitudes in descending order, equal ones as they were; order: where each came from."""
    for i in range(4):
        value = abs(block[i])
        place = i
        while place > 0 and u[place - 1, k] < value:
            u[place, k] = u[place - 1, k]
            order[place] = order[place - 1]
            place -= 1
        u[place, k] = value
        order[place] = i


@njit(cache=True)
def _sweep_three(u, strength, sweeps, w, change, changes):  # type: ignore[no-untyped-def]
    w[:] = 0
    zero = strength - strength  # in its number format, so that all of the arithmetic is
    for sweep in range(sweeps):
        for k in range(_GROUP):
            a, b, c = w[0, k], w[1, k], w[2, k]
            new_c = max(u[2, k] - strength * (a * b), zero)
            new_b = max(u[1, k] - strength * (a * new_c), zero)
            new_a = max(u[0, k] - strength * (new_b * new_c), zero)
            change[k] = abs(new_a - a) + abs(new_b - b) + abs(new_c - c)
            w[0, k], w[1, k], w[2, k] = new_a, new_b, new_c
        if not _note(change, changes[sweep]):
            return


@njit(cache=True)
def _sweep_four(u, strength, sweeps, w, change, changes):  # type: ignore[no-untyped-def]
    w[:] = 0
    zero = strength - strength  # in its number format, so that all of the arithmetic is
    for sweep in range(sweeps):
        for k in range(_GROUP):
            a, b, c, d = w[0, k], w[1, k], w[2, k], w[3, k]
            new_d = max(u[3, k] - strength * (a * b + (a + b) * c), zero)
            new_c = max(u[2, k] - strength * (a * b + (a + b) * new_d), zero)
            new_b = max(u[1, k] - strength * (a * new_c + (a + new_c) * new_d), zero)
            new_a = max(u[0, k] - strength * (new_b * new_c + (new_b + new_c) * new_d), zero)
            change[k] = abs(new_a - a) + abs(new_b - b) + abs(new_c - c) + abs(new_d - d)
            w[0, k], w[1, k], w[2, k], w[3, k] = new_a, new_b, new_c, new_d
        if not _note(change, changes[sweep]):
            return


@njit(cache=True, inline="always")
def _note(change, total):  # type: ignore[no-untyped-def]
    """Add the change of each block of a group to a sweep's total; whether any moved, since one that did not never will again."""
    moved = False
    for k in range(_GROUP):
        total[k] += change[k]
        moved |= change[k] != 0
    return moved


@njit(cache=True, inline="always")
def _choose(block, order, u, three, four, strength, result):  # type: ignore[no-untyped-def]
    """Write the candidate with the lowest objective, of equal ones the sparser, back in order, with its signs; overwrites `three`."""
    lowest = 0.5 * (u[2] * u[2] + u[3] * u[3])
    of_three = 0.5 * _distance(u, three) + strength * (three[0] * three[1] * three[2])
    if of_three < lowest:
        lowest = of_three
    else:
        three[0], three[1], three[2] = u[0], u[1], 0
    triples = four[0] * four[1] * (four[2] + four[3]) + four[2] * four[3] * (four[0] + four[1])
    best = four if 0.5 * _distance(u, four) + strength * triples < lowest else three
    for place in range(4):
        i = order[place]
        result[i] = -best[place] if block[i] < 0 else best[place]


@njit(cache=True, inline="always")
def _distance(u, w):  # type: ignore[no-untyped-def]
    return (u[0] - w[0]) ** 2 + (u[1] - w[1]) ** 2 + (u[2] - w[2]) ** 2 + (u[3] - w[3]) ** 2
