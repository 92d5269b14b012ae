"""Captions: many wordings, right grammar, and words that go the way the content goes."""

from __future__ import annotations

import random
import re

import pytest

from consisti2v_cli.training.captions import PLURAL, SINGULAR, all_captions, caption
from consisti2v_cli.training.data import MOTIONS

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def many(motion: str, stride: int | None = 3, count: int = 400) -> list[str]:
    rng = random.Random(0)
    return [caption(motion, stride, rng) for _ in range(count)]


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_every_class_has_many_wordings(motion: str) -> None:
    found = many(motion)
    assert len(set(found)) >= 10
    assert all(text == text.strip() and not re.search(r"[\[\]{}|]|  ", text) for text in found)


@pytest.mark.parametrize("motion", list(OPPOSITE))
def test_content_goes_as_named_and_a_camera_the_other_way(motion: str) -> None:
    camera, content = [], []
    for text in many(motion):
        (camera if "camera" in text else content).append(
            text.replace("from right to", "to").replace("from left to", "to")
        )
    assert camera
    words = {"up": ("up", "top"), "down": ("down", "bottom")}
    for text in content:
        last = text.replace("upward", "up").replace("downward", "down")
        assert any(word in last for word in words.get(motion, (motion,))), text
        assert not re.search(rf"\b{OPPOSITE[motion]}(wards?)?\b", text), text
    assert all(OPPOSITE[motion] in text for text in camera)


def test_cutouts_say_that_the_rest_stays() -> None:
    for direction in OPPOSITE:
        assert all(re.search("still|across the scene|in front of", text) for text in many(f"cutout-{direction}"))


def test_verbs_agree_with_their_subjects() -> None:
    texts = set(all_captions(5000))
    for text in texts:
        if found := re.match(r"the (\w+) (drift|move|slide|glide|shift|rotate|darken)(s?)\b", text):
            noun, _, ending = found.groups()
            assert (ending == "s") == (noun not in PLURAL), text
        assert not re.search(r"\b(gos|dos|passs)\b", text)


def test_speed_is_spoken_of_at_slow_and_fast_strides_only() -> None:
    slow, fast = re.compile("slowly|gently"), re.compile("quickly|fast")
    assert any(slow.search(text) for text in many("left", 1))
    assert any(fast.search(text) for text in many("left", 5))
    assert not any(fast.search(text) for text in many("left", 2))
    assert not any(slow.search(text) or fast.search(text) for text in many("left", 3) + many("left", None))
    assert not any(slow.search(text) or fast.search(text) for text in many("still", 1))


def test_captions_for_the_tokenizer_are_fixed_and_cover_everything() -> None:
    texts = all_captions()
    assert texts == all_captions()
    everything = " ".join(texts)
    assert all(re.search(rf"\b{noun}\b", everything) for noun in (*SINGULAR, *PLURAL))


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(KeyError):
        caption("sideways", 3, random.Random(0))
