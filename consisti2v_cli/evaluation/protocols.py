"""The paper's evaluations (sections 4 and 5.2; appendices B, C, F): what clips are made of, and the tables they fill.

What the paper leaves to chance is drawn from a seed by hashes of names: the same on every machine, in whatever order
files are listed; and of fewer clips than the paper's, the first ones stay the same when more are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.errors import RequestError

from .datasets import Sample, draw, i2v_bench, msrvtt, ucf101
from .tables import Column, Values, aligned, notes_below

if TYPE_CHECKING:
    from .measures import Measure


@dataclass(frozen=True)
class Protocol:
    """An evaluation of the paper."""

    key: str  # on the command line
    title: str  # of its table
    columns: tuple[Column, ...]  # of that table, as far as it is about this data set
    reference: Mapping[str, tuple[float, ...]]  # its rows: of each method the values as printed
    assumptions: tuple[str, ...]  # how what the paper leaves open is done here
    clips: int  # that the paper's values come from
    size: int = 256  # pixels: width and height
    frames: int = 16
    fps: float = 8

    @property
    def metrics(self) -> tuple[str, ...]:
        """The keys of its metrics."""
        return tuple(column.key for column in self.columns)

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's fields that it fixes."""
        return {"width": self.size, "height": self.size, "frames": self.frames, "fps": self.fps}


_ALWAYS = (
    "Clips: all settings but size, length and frame rate are the model's own, among them the frame stride; the paper "
    "names 50 steps of DDIM, guidance 7.5, tau 850 and D0 0.25. Noise is mixed with alpha 1.0 as in the released "
    "configuration, where the paper's text says 1.5.",
    "Clips are judged as written to MP4 files, so that the encoder's loss is in all values.",
    "The first frame is cropped to its middle square and brought to 256x256, a pixel being the mean of its area.",
)
_REAL = (
    "First frames are drawn from a seed, evenly from all frames of a video.",
    "Real clips: 16 consecutive frames from the drawn one on, or the video's last 16 where fewer are left; cropped and "
    "resized as the first frame. The paper tells neither their stride nor their size.",
    "FVD: the paper's footnote names another metric's code; that of Ge et al. 2022 is followed: logits of I3D, frames "
    "squeezed to 224x224 without anti-aliasing, covariances over n - 1.",
)
UCF101 = Protocol(
    "ucf101",
    "Table 1: UCF-101, zero-shot",
    (
        Column("fvd_i3d", "FVD", "lower"),
        Column("is_c3d", "IS", "higher"),
        Column("fid_inception", "FID", "lower"),
    ),
    {
        "AnimateAnything": (642.64, 63.87, 10.00),
        "I2VGen-XL": (597.42, 18.20, 42.39),
        "DynamiCrafter": (404.50, 41.97, 32.35),
        "SEINE": (306.49, 54.02, 26.00),
        "ConsistI2V": (177.66, 56.22, 15.74),
    },
    (
        *_ALWAYS,
        "2048 videos: each class has its share, rounded by largest remainders; within a class none is drawn twice.",
        *_REAL,
        "IS: mean of 10 splits after shuffling as in the code of StyleGAN-V, which the paper names.",
        "FID: every frame of every clip is a picture; the paper does not say how many of them are.",
    ),
    clips=2048,
)
MSRVTT = Protocol(
    "msrvtt",
    "Table 1: MSR-VTT, test split, zero-shot",
    (Column("fvd_i3d", "FVD", "lower"), Column("clipsim", "CLIPSIM", "higher", digits=4)),
    {
        "AnimateAnything": (218.10, 0.2661),
        "I2VGen-XL": (270.78, 0.2541),
        "DynamiCrafter": (219.31, 0.2659),
        "SEINE": (152.63, 0.2774),
        "ConsistI2V": (104.58, 0.2674),
    },
    (*_ALWAYS, "Of each video's captions one is drawn from the seed.", *_REAL),
    clips=2990,
)
I2V_BENCH = Protocol(
    "i2v-bench",
    "Table 2: I2V-Bench",
    (
        Column("flickering", "Temporal\nFlickering", "higher", scale=100),
        Column("smoothness_amt", "Motion\nSmoothness", "higher", scale=100),
        Column("dynamic_raft", "Dynamic\nDegree", "higher", scale=100),
        Column("background_clip", "Background\nConsist.", "higher", scale=100),
        Column("subject_dino", "Subject\nConsist.", "higher", scale=100),
        Column("object_grit", "Object\nConsist.", "higher", scale=100),
        Column("scene_tag2text", "Scene\nConsist.", "higher", scale=100),
        Column("overall_viclip", "Overall\nConsist.", "higher", scale=100),
    ),
    {
        "AnimateAnything": (99.08, 99.23, 3.69, 98.50, 97.90, 32.56, 27.18, 18.74),
        "I2VGen-XL": (94.03, 96.03, 57.88, 94.52, 89.36, 29.25, 23.50, 16.89),
        "DynamiCrafter": (93.81, 95.89, 64.11, 93.47, 88.01, 32.18, 23.93, 18.68),
        "SEINE": (96.08, 97.92, 42.12, 93.98, 88.21, 35.43, 27.68, 20.21),
        "ConsistI2V": (96.65, 97.77, 37.48, 94.69, 90.85, 32.06, 24.81, 19.50),
    },
    (
        *_ALWAYS,
        "First frames are the videos' first ones, or the pictures; the paper does not say which it took.",
        "256x256, 16 frames, 8 a second, as in the paper's human evaluation; the sizes behind Table 2 are not told.",
        "Values are means over all clips. Section 4 counts 2,950 in 16 categories, appendix F 2951 in 17.",
        "Flickering is measured of all clips: VBench would leave out those that move, the paper's values do not.",
        "Objects and scenes were labelled by hand for 100 clips each; the labels are not in the paper.",
        "Smoothness is not measured by AMT, whose weights are for non-commercial use only; objects and scenes not by "
        "GRiT and Tag2Text, which need libraries that do not run everywhere. What stands in for them has own columns.",
    ),
    clips=2951,
)
PROTOCOLS = {protocol.key: protocol for protocol in (UCF101, MSRVTT, I2V_BENCH)}
I2V_BENCH_COUNTS = {  # clips by category (appendix F)
    "Portrait": 663,
    "Scenery-Nature": 500,
    "Pet": 393,
    "Food": 269,
    "Animation-Hard": 187,
    "Science": 180,
    "Sports": 149,
    "Scenery-City": 138,
    "Animation-Static": 120,
    "Music": 63,
    "Game": 61,
    "Animal": 55,
    "Industry": 44,
    "Painting": 40,
    "Others": 40,
    "Vehicle": 30,
    "Drama": 19,
}


def table_lines(
    protocol: Protocol,
    ours: Values,
    *,
    name: str = "here",
    stand_ins: Sequence[Measure] = (),
    notes: Sequence[str] = (),
) -> list[str]:
    """The paper's table with our row beneath, and what it leaves open.

    Args:
        protocol: whose table.
        ours: what was measured, by key, as metrics compute it: a share where the paper prints per cent.
        name: of our row, such as the model's.
        stand_ins: measures in `ours` that get columns of their own; see `tables.aligned`.
        notes: more to be said beneath, such as those of `shortfalls`.
    """
    table = aligned(protocol.columns, protocol.reference, {name: ours}, stand_ins)
    below = [*notes, *protocol.assumptions]
    return [protocol.title, *table, *notes_below("What the paper leaves open, and how it is done here:", below)]


def shortfalls(protocol: Protocol, samples: Sequence[Sample]) -> list[str]:
    """Sentences about clips that the paper has and a run has not."""
    if len(samples) == protocol.clips:
        return []
    more = " Frechet distances of fewer clips come out larger." if "fvd_i3d" in protocol.metrics else ""
    clips = f"{len(samples)} clip{'' if len(samples) == 1 else 's'}"
    said = [f"Measured on {clips}; the paper's values are of {protocol.clips}.{more}"]
    found = Counter(sample.category for sample in samples)
    if protocol is I2V_BENCH and found.keys() & I2V_BENCH_COUNTS.keys():
        short = [f"{name} {found[name]} of {count}" for name, count in I2V_BENCH_COUNTS.items() if found[name] != count]
        said.append(f"Categories: {', '.join(short)}.")
    return said


def read_samples(protocol: Protocol, folder: Path, *, seed: int = 0, clips: int | None = None) -> list[Sample]:
    """What the clips of a protocol are made of, from a data set's folder as it was published; see `datasets`.

    Args:
        protocol: of `PROTOCOLS`.
        folder: the data set's.
        seed: of videos, captions and first frames, and of the clips' noise.
        clips: so many, the first ones of an order that is drawn too; by default all.

    Raises:
        RequestError: the folder is absent, or is not the data set, or not all of it.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}; the data set of {protocol.key} is expected there.")
    samples = sorted(_READERS[protocol.key](folder, seed), key=lambda sample: draw(seed, "order", sample.name))
    if clips is not None and not 1 <= clips <= len(samples):
        raise RequestError(f"{clips} clips of {protocol.key} are asked for; possible: 1 to {len(samples)}.")
    return samples[:clips]


_READERS: dict[str, Callable[[Path, int], list[Sample]]] = {
    "ucf101": lambda folder, seed: ucf101(folder, seed, UCF101.clips),
    "msrvtt": msrvtt,
    "i2v-bench": i2v_bench,
}
