"""Errors that a user can correct, shown without a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Arguments that cannot be carried out: the message says what was given, what is allowed, what to do."""
