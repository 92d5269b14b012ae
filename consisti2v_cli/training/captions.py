"""Template captions for the synthetic clips, in many wordings.

The words speak of what is seen: "moves left" means that the picture's content moves to the left. A camera that
pans right makes the content move left, and where a caption speaks of the camera it is used in this sense, as the field
does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SINGULAR = _words(
    """
    boat ship sailboat car truck bus train bicycle motorcycle airplane helicopter balloon rocket kite man woman child
    boy girl dancer cyclist cat dog horse cow sheep rabbit squirrel bird eagle butterfly fish turtle bear monkey
    elephant flower tree leaf apple orange cup bottle book chair table lamp statue house building tower castle church
    bridge street city garden field forest mountain hill lake river sea beach sky cloud moon sun rainbow waterfall
    fountain flag toy robot crowd landscape painting face
    """
)
PLURAL = _words(
    """
    clouds birds people flowers trees leaves boats cars fruits houses mountains waves children animals lights stars
    """
)
WHOLE = ("everything", "the scene", "the picture", "the view", "the whole image", "it all", "the photo", "the content")

# [verb] is conjugated to go with {subject}; {to} is a way to name the direction.
_MOVE = (
    "{subject} [drift] {to}",
    "{subject} [move] {to}",
    "{subject} [slide] {to}",
    "{subject} [glide] {to}",
    "{subject} [travel] {to}",
    "{subject} [shift] {to}",
    "{subject} [float] {to}",
    "{subject} [go] {to}",
    "{subject} [head] {to}",
    "{subject} is moving {to}|{subject} are moving {to}",
    "{subject} is drifting {to}|{subject} are drifting {to}",
    "{subject} [pass] by, {to}",
)
_PAN_SHORT = (
    "{to}",
    "moves {to}",
    "move {to}",
    "drifts {to}",
    "slides {to}",
    "pan: everything slides {to}",
    "moving {to}",
)
_CAMERA = {
    "left": ("the camera pans right", "the camera moves to the right", "camera pan to the right", "camera pans right"),
    "right": ("the camera pans left", "the camera moves to the left", "camera pan to the left", "camera pans left"),
    "up": ("the camera tilts down", "the camera moves down", "camera tilts down", "the camera pans down"),
    "down": ("the camera tilts up", "the camera moves up", "camera tilts up", "the camera pans up"),
}
_TO = {
    "left": ("left", "to the left", "leftwards", "towards the left", "from right to left", "left"),
    "right": ("right", "to the right", "rightwards", "towards the right", "from left to right", "right"),
    "up": ("up", "upwards", "to the top", "towards the top", "upward", "up"),
    "down": ("down", "downwards", "to the bottom", "towards the bottom", "downward", "down"),
    "up-left": ("up and to the left", "to the upper left", "up and left", "diagonally up to the left"),
    "up-right": ("up and to the right", "to the upper right", "up and right", "diagonally up to the right"),
    "down-left": ("down and to the left", "to the lower left", "down and left", "diagonally down to the left"),
    "down-right": ("down and to the right", "to the lower right", "down and right", "diagonally down to the right"),
}
_CUTOUT = (
    "{subject} [move] {to} over a still background",
    "{subject} [drift] {to} in front of a still background",
    "only {subject} [move] {to}, the background stays still",
    "{subject} [float] {to} across the scene",
    "{subject} [slide] {to} while the rest stays still",
    "a piece of the picture moves {to} over a still background",
    "something floats {to} in front of the picture",
)
_OTHER: dict[str, Sequence[str]] = {
    "zoom-in": (
        "the camera zooms in", "zoom in", "zooms in", "zoom in on {subject}", "the camera zooms in on {subject}",
        "{subject} [come] closer", "{subject} [grow] larger", "{subject} [get] bigger", "the camera moves closer",
        "the camera moves forward", "moving closer to {subject}", "zooming in", "we get closer to {subject}",
        "a push in towards {subject}", "the picture grows",
    ),
    "zoom-out": (
        "the camera zooms out", "zoom out", "zooms out", "zoom out from {subject}",
        "the camera zooms out from {subject}",
        "{subject} [get] smaller", "{subject} [shrink]", "{subject} [move] away", "the camera moves back",
        "the camera moves backward", "moving away from {subject}", "zooming out", "we move away from {subject}",
        "a pull back from {subject}", "the picture shrinks",
    ),
    "turn-left": (
        "{subject} [turn] counterclockwise", "{subject} [rotate] counterclockwise", "{subject} [rotate] anticlockwise",
        "the picture turns counterclockwise", "rotate counterclockwise", "turns counterclockwise", "turn anticlockwise",
        "{subject} [tilt] over counterclockwise", "the camera rolls clockwise", "spinning counterclockwise",
    ),
    "turn-right": (
        "{subject} [turn] clockwise", "{subject} [rotate] clockwise", "{subject} [spin] clockwise",
        "the picture turns clockwise", "rotate clockwise", "turns clockwise", "turn clockwise",
        "{subject} [tilt] over clockwise", "the camera rolls counterclockwise", "spinning clockwise",
    ),
    "brighten": (
        "it gets brighter", "{subject} [get] brighter", "{subject} [become] brighter", "the scene brightens",
        "{subject} [brighten]", "{subject} [light] up", "the light comes up", "the lights go on", "brighten",
        "brighter",
        "day breaks over {subject}", "the light grows stronger", "the picture becomes bright",
    ),
    "darken": (
        "it gets darker", "{subject} [get] darker", "{subject} [become] darker", "the scene darkens",
        "{subject} [darken]",
        "{subject} [fade] into the dark", "the light fades", "the lights go out", "darken", "darker",
        "night falls over {subject}", "the light grows weaker", "the picture becomes dark", "it gets dark",
    ),
    "still": (
        "nothing moves", "{subject} [stay] still", "{subject} [stand] still", "{subject} [do] not move",
        "a still picture",
        "no motion", "still", "everything stays still", "the camera does not move", "a motionless view of {subject}",
        "{subject}, motionless", "{subject} [remain] where it was|{subject} [remain] where they were", "stay still",
    ),
    "snow": (
        "it snows", "it is snowing", "snow falls", "snow falls on {subject}", "snowflakes fall", "it starts to snow",
        "snow", "snowing over {subject}", "snow begins to fall on {subject}", "a snowy day", "{subject} in the snow",
    ),
    "rain": (
        "it rains", "it is raining", "rain falls", "rain falls on {subject}", "raindrops fall", "it starts to rain",
        "rain", "raining over {subject}", "rain begins to fall on {subject}", "a rainy day", "{subject} in the rain",
    ),
    "ripple": (
        "the picture ripples like water", "{subject} [ripple] like water", "ripples run over {subject}", "ripples",
        "waves run through the picture", "{subject} [wobble] as if under water", "rippling", "{subject} [waver]",
        "the picture wavers like a reflection in water", "{subject} seen through rippling water",
    ),
}  # fmt: skip
_SPEED = {
    1: ("slowly", "very slowly", "gently"),
    2: ("slowly", "gently"),
    4: ("quickly", "fast"),
    5: ("quickly", "fast", "very fast"),
}
_SPEED_SHARE = 0.4  # of the captions of slow and fast clips that say so
_UNHURRIED = ("still", "snow", "rain", "ripple")  # no word for the speed there
_IRREGULAR = {"go": "goes", "do": "does", "pass": "passes"}


def caption(motion: str, stride: int | None, rng: random.Random) -> str:
    """A sentence for a clip of class `motion`; at strides 1, 2, 4 and 5 it sometimes speaks of the speed.

    Raises:
        KeyError: there is no such class.
    """
    text = _sentence(motion, rng)
    words = _SPEED.get(stride) if stride is not None and motion not in _UNHURRIED else None
    if words and rng.random() < _SPEED_SHARE:
        first = motion.startswith("cutout-") or rng.random() < 0.2  # "... the rest stays still slowly" would be odd
        text = f"{rng.choice(words)}, {text}" if first else f"{text} {rng.choice(words)}"
    return text


def all_captions(count: int = 20_000, seed: int = 0) -> list[str]:
    """A fixed sample of captions of every class and stride, for training a tokenizer."""
    rng = random.Random(seed)
    classes = [*_TO, *(f"cutout-{direction}" for direction in _CAMERA), *_OTHER]
    return [caption(classes[number % len(classes)], rng.randint(1, 5), rng) for number in range(count)]


def _sentence(motion: str, rng: random.Random) -> str:
    if motion in _OTHER:
        return _fill(rng.choice(_OTHER[motion]), rng)
    if motion.startswith("cutout-"):
        direction = motion.removeprefix("cutout-")
        return _fill(rng.choice(_CUTOUT), rng, to=rng.choice(_TO[direction]))
    kind = rng.random()
    if kind < 0.1 and motion in _CAMERA:
        return rng.choice(_CAMERA[motion])
    to = rng.choice(_TO[motion])
    if kind < 0.3:
        return rng.choice(_PAN_SHORT).format(to=to)
    return _fill(rng.choice(_MOVE), rng, to=to, whole=0.3)


def _fill(template: str, rng: random.Random, to: str = "", whole: float = 0.0) -> str:
    """Put a subject into the template and conjugate its [verbs]; `singular|plural` chooses between two templates."""
    plural = False
    if rng.random() < whole:
        subject = rng.choice(WHOLE)
    else:
        number = rng.randrange(len(SINGULAR) + len(PLURAL))
        plural = number >= len(SINGULAR)
        noun = PLURAL[number - len(SINGULAR)] if plural else SINGULAR[number]
        subject = f"the {noun}" if plural or rng.random() < 0.85 else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    one, _, many = template.partition("|")
    chosen = many if plural and many else one
    conjugated = re.sub(r"\[(\w+)\]", lambda found: found[1] if plural else _third_person(found[1]), chosen)
    return conjugated.format(subject=subject, to=to)


def _third_person(verb: str) -> str:
    return _IRREGULAR.get(verb, f"{verb}s")
