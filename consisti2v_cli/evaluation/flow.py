"""Optical flow by OpenCV's DIS (Kroeger et al. 2016): a stand-in for RAFT and AMT that needs no weights."""

from __future__ import annotations

from importlib import import_module
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consisti2v_cli.errors import RequestError

SMALLEST = 16  # pixels: side of the frames

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]  # h w 2: x to the right, y down, in pixels


def dis_flow(before: Frames, after: Frames) -> Flow:
    """Where each pixel of a frame `h w 3` is found in the next, `h w 2` in pixels; measured on grey levels.

    Raises:
        RequestError: OpenCV is not installed.
        ValueError: frames so small that OpenCV would fail, or end the program.
    """
    if min(before.shape[:2]) < SMALLEST:
        raise ValueError(f"optical flow needs frames of {SMALLEST}x{SMALLEST} pixels or more")
    cv2, dis = _opencv()
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    flow: Flow = dis.calc(*greys, None)
    return flow


def interpolate(before: Frames, after: Frames) -> NDArray[np.float32]:
    """The frame half-way between two, `h w 3`, 0 to 1: each is moved half of its way to the other; their mean."""
    there, back = dis_flow(before, after), dis_flow(after, before)
    return (_moved(before, there) + _moved(after, back)) * np.float32(0.5 / 255)


def _moved(frame: Frames, flow: Flow) -> NDArray[np.float32]:
    """A frame half of its way along a flow, which is taken to be the same where it comes from and where it goes."""
    cv2, _ = _opencv()
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns - flow[..., 0] / 2, rows - flow[..., 1] / 2
    moved: NDArray[np.float32] = cv2.remap(
        frame.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved


def _opencv() -> tuple[Any, Any]:
    """OpenCV, and this thread's own DIS: one cannot serve two at a time."""
    try:
        cv2: Any = import_module("cv2")
    except ImportError as error:
        raise RequestError("optical flow needs OpenCV: pip install '.[evaluate]'") from error
    if not hasattr(_own, "dis"):
        cv2.setNumThreads(1)  # clips are measured side by side
        _own.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return cv2, _own.dis


_own = local()
