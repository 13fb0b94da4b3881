"""Errors of the machines."""

from __future__ import annotations

from xmsim.configs.errors import XmsimError


class WorkloadError(XmsimError):
    """A workload that a machine cannot serve; the text says which limit it meets and what to change."""
