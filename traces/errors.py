"""What can be wrong with a trace."""

from __future__ import annotations

from xmsim.configs.errors import XmsimError


class TraceError(XmsimError):
    """A trace that cannot be read, resumed or written as asked."""
