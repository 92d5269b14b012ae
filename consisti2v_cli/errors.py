"""What can go wrong for a person. The message is one or two lines: what is wrong, and what to do."""

from __future__ import annotations

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")  # torch's words


class ConsistI2VError(Exception):
    """Something was asked for rightly and failed while running."""

    exit_code = 1


class RequestError(ConsistI2VError):
    """The request is wrong: a bad option, an unreadable image, an impossible size."""

    exit_code = 2


class TakenError(RequestError):
    """The file that was to be written exists already, and may not be overwritten."""


class WeightsError(ConsistI2VError):
    """Weights are missing, damaged, or do not fit the network."""

    exit_code = 3


def lacks_memory(error: Exception) -> bool:
    """Whether an error of Python's or torch's says that the memory is used up; on most devices a mere RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    )
