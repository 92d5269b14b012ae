"""Ways to make the same clip in less memory, and which of them comes next where it does not suffice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

CHUNKS = 4  # more save nothing: then something else is the widest
OWN_MEMORY = ("cuda",)  # devices for which the CPU's memory is another one


@dataclass(frozen=True)
class MemoryPlan:
    """What is done to need less memory.

    A recipe does not carry it: the clip stays the same but for rounding where tokens or branches are computed apart,
    and for what can hardly be seen where pictures are coded in tiles.
    """

    parts_apart: bool = False  # text encoder and autoencoder are on the device only while they work
    feed_forward_chunks: int = 1  # into how many pieces the network's widest layers cut their tokens
    streamed: bool = False  # the network's weights lie on the CPU, and come layer by layer
    branches_apart: bool = False  # one branch of guidance after the other
    tiled: bool = False  # pictures larger than `TILE` go through the autoencoder piece by piece

    def __str__(self) -> str:
        """In words, for people."""
        said = {
            "text encoder and autoencoder wait on the CPU": self.parts_apart,
            "wide layers piece by piece": self.feed_forward_chunks > 1,
            "weights streamed from the CPU": self.streamed,
            "one branch of guidance at a time": self.branches_apart,
            "pictures coded in tiles": self.tiled,
        }
        return "; ".join(words for words, is_so in said.items() if is_so) or "all at once"


TILE = 512  # pixels: side of the tiles

ALL_AT_ONCE = MemoryPlan()
PLANS = (  # from the fastest to the smallest
    ALL_AT_ONCE,
    MemoryPlan(parts_apart=True),
    MemoryPlan(parts_apart=True, feed_forward_chunks=CHUNKS),
    MemoryPlan(parts_apart=True, feed_forward_chunks=CHUNKS, branches_apart=True),
    MemoryPlan(parts_apart=True, streamed=True),  # a layer in pieces would come once for each
    MemoryPlan(parts_apart=True, feed_forward_chunks=CHUNKS, streamed=True),
    MemoryPlan(parts_apart=True, feed_forward_chunks=CHUNKS, streamed=True, branches_apart=True),
)


def plans_for(device: str) -> list[MemoryPlan]:
    """The plans that make a difference on a device, `cuda:1` or the like, from the fastest to the smallest."""
    if device.partition(":")[0] in OWN_MEMORY:
        return list(PLANS)
    return list(dict.fromkeys(replace(plan, parts_apart=False, streamed=False) for plan in PLANS))


def smallest(plans: Iterable[MemoryPlan]) -> MemoryPlan:
    """The plan that keeps to the memory of each of several: the last of `PLANS` among them, in tiles if any is."""
    known = list(plans)
    ranked = [(plan.streamed, plan.branches_apart, plan.feed_forward_chunks, plan.parts_apart) for plan in known]
    return replace(known[ranked.index(max(ranked))], tiled=any(plan.tiled for plan in known))


def next_plan(plan: MemoryPlan, device: str) -> MemoryPlan | None:
    """The next smaller plan for the network; None where there is none. Tiles stay as they are."""
    known = plans_for(device)
    bare = replace(plan, tiled=False)
    place = known.index(bare) if bare in known else len(known)
    return replace(known[place + 1], tiled=plan.tiled) if place + 1 < len(known) else None
