"""What can go wrong for a person. The message is one or two lines: what is wrong, and what to do."""

from __future__ import annotations


class ConsistI2VError(Exception):
    """Something was asked for rightly and failed while running."""

    exit_code = 1


class RequestError(ConsistI2VError):
    """The request is wrong: a bad option, an unreadable image, an impossible size."""

    exit_code = 2


class WeightsError(ConsistI2VError):
    """Weights are missing, damaged, or do not fit the network."""

    exit_code = 3
