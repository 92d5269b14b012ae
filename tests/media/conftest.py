"""Films as bytes."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from consisti2v_cli.media.video import stream_video


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """The bytes of a film: encoded(frames, fps, format, ...)."""

    def encoded(*arguments: Any, **options: Any) -> bytes:
        stream = BytesIO()
        stream_video(stream, *arguments, **options)
        return stream.getvalue()

    return encoded
