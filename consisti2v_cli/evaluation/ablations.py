"""The paper's ablations (section 5.4, Table 3): FrameInit, temporal and spatial conditioning, switched off in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consisti2v_cli.errors import RequestError

from .protocols import UCF101, Protocol
from .tables import Column, Values, aligned, notes_below

if TYPE_CHECKING:
    from consisti2v_cli.model import VideoUNet
    from consisti2v_cli.weights.load import Model

    from .measures import Measure


@dataclass(frozen=True)
class Variant:
    """A row of Table 3: what is left of the model."""

    key: str  # in JSON, and as a folder's name
    name: str  # in the paper
    frameinit: bool = True  # sampling begins from the layout's low frequencies (section 3.5)
    window: bool = True  # T.Cond.: temporal attention sees the first frame's window (section 3.4)
    first_frame: bool = True  # S.Cond.: spatial attention sees the first frame (section 3.3)

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's fields that it changes."""
        return {} if self.frameinit else {"frameinit": False}


WHOLE = Variant("whole", "ConsistI2V")
VARIANTS = (
    WHOLE,
    Variant("no-frameinit", "w/o FrameInit", frameinit=False),
    Variant("no-frameinit-temporal", "w/o FrameInit & T.Cond.", frameinit=False, window=False),
    Variant(
        "no-frameinit-temporal-spatial",
        "w/o FrameInit & T.Cond. & S.Cond.",
        frameinit=False,
        window=False,
        first_frame=False,
    ),
)

TITLE = "Table 3: ablations on UCF-101"
COLUMNS = (
    Column("fvd_i3d", "FVD", "lower"),
    Column("is_c3d", "IS", "higher"),
    Column("fid_inception", "FID", "lower"),
)
PAPER: dict[str, tuple[float, ...]] = {  # by variant, in the order of COLUMNS
    "whole": (177.66, 56.22, 15.74),
    "no-frameinit": (245.79, 42.21, 24.08),
    "no-frameinit-temporal": (224.16, 42.98, 24.04),
    "no-frameinit-temporal-spatial": (704.48, 21.97, 68.39),
}
ASSUMPTIONS = (
    "The network is not trained anew: its trained weights run without the conditioning that is off. The paper says "
    "that it is disabled, and no more.",
    "T.Cond. off: temporal attention gets no window of the first frame; it still sees that frame at its own position.",
    "S.Cond. off: spatial attention gets neither keys nor values of the first frame; its latent is still the first "
    "frame of the input.",
    "All rows have the same pictures, prompts and seeds.",
)


@contextmanager
def apply(model: Model | VideoUNet, variant: Variant) -> Iterator[None]:
    """Switch off what a variant does without, in the network of a model, until the block ends, however it ends.

    FrameInit is no matter of the network: see `Variant.settings`.

    Raises:
        RequestError: the network has no such conditioning, so that there is nothing to switch off.
    """
    from consisti2v_cli.model import VideoUNet
    from consisti2v_cli.model.attention import SpatialSelfAttention, TemporalSelfAttention

    unet = model if isinstance(model, VideoUNet) else model.unet
    off: list[tuple[Any, str]] = []
    for kind, switch, stays in (
        (TemporalSelfAttention, "window", variant.window),
        (SpatialSelfAttention, "first_frame", variant.first_frame),
    ):
        on = [module for module in unet.modules() if isinstance(module, kind) and getattr(module, switch)]
        if not stays and not on:
            raise RequestError(f"{variant.name}: the network has no such attention that could be left out.")
        off += [] if stays else [(module, switch) for module in on]
    try:
        for module, switch in off:
            setattr(module, switch, False)
        yield
    finally:
        for module, switch in off:
            setattr(module, switch, True)


def rows(measured: Mapping[str, Values]) -> dict[str, Values]:
    """What was measured of variants, by their keys -> by the paper's names in its order; those not measured are empty.

    Raises:
        ValueError: a key that no variant has.
    """
    if unknown := measured.keys() - {variant.key for variant in VARIANTS}:
        raise ValueError(f"no variant is called {min(unknown)}")
    return {variant.name: measured.get(variant.key, {}) for variant in VARIANTS}


def ablation_lines(
    measured: Mapping[str, Values],
    protocol: Protocol = UCF101,
    *,
    name: str = "here",
    stand_ins: Sequence[Measure] = (),
    notes: Sequence[str] = (),
) -> list[str]:
    """Table 3 with our rows beneath the paper's, and what it leaves open; by another protocol our rows alone.

    Args:
        measured: values of each variant, by its key; see `tables.aligned`.
        protocol: that clips were made by; the paper's rows are of UCF-101.
        name: what our rows are marked with.
        stand_ins: measures that get columns of their own.
        notes: more to be said beneath.
    """
    papers = protocol.key == UCF101.key
    reference = {variant.name: PAPER[variant.key] for variant in VARIANTS} if papers else {}
    ours = {f"{name}: {title}": values for title, values in rows(measured).items()}
    table = aligned(COLUMNS if papers else protocol.columns, reference, ours, stand_ins)
    title = TITLE if papers else f"Ablations as in Table 3, by the protocol {protocol.key}"
    below = [*ASSUMPTIONS, *notes, *protocol.assumptions]
    return [title, *table, *notes_below("What the paper leaves open, and how it is done here:", below)]
