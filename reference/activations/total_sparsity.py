"""Static weight sparsity s1 and dynamic activation sparsity s2 together: a product is left out where either is zero.

s1 is static and s2 dynamic, as in the published code of SPDP; its README has the two names the other way round.

Source: SPDP (arXiv 2607.21985); quaternior/spdp at fa443ef, TEAL/run_pruning.py.
"""

from __future__ import annotations

_ROUNDING = 1e-12  # a total computed from its parts may lie this much below one of them


def total_sparsity(static: float, dynamic: float) -> float:
    """s = 1 − (1 − s1)(1 − s2).

    Raises: ValueError naming the argument that is not at least 0 and below 1.
    """
    _check(static=static, dynamic=dynamic)
    return 1 - (1 - static) * (1 - dynamic)


def dynamic_sparsity(total: float, static: float) -> float:
    """s2 that reaches a total with s1 given: s2 = 1 − (1 − s) / (1 − s1).

    Raises: ValueError naming the argument that is not at least 0 and below 1, or a total below s1.
    """
    return _other_share(total, static=static)


def static_sparsity(total: float, dynamic: float) -> float:
    """s1 that reaches a total with s2 given: s1 = 1 − (1 − s) / (1 − s2).

    Raises: ValueError naming the argument that is not at least 0 and below 1, or a total below s2.
    """
    return _other_share(total, dynamic=dynamic)


def _other_share(total: float, **given: float) -> float:
    _check(total=total, **given)
    ((name, share),) = given.items()
    if total < share - _ROUNDING:
        raise ValueError(f"total: {total} is below the {name} sparsity {share} alone; raise it to {share} at least")
    return max(0.0, 1 - (1 - total) / (1 - share))


def _check(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name}: {share} is not a share; choose at least 0 and less than 1")
