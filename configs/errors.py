"""Errors whose text is written for the person at the keyboard."""

from __future__ import annotations


class XmsimError(Exception):
    """One clear sentence: the place, the fact and the way out. The command line prints it and exits with status 2."""


class ConfigError(XmsimError):
    """A configuration file that cannot be used; the text starts with file:line:column."""


class RecordError(XmsimError):
    """A record file (trace, result, measurement) that cannot be read."""
