"""Pages that stand alone: HTML with its style and script inside, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def filled(name: str, parts: Mapping[str, str], *, media: str = "") -> str:
    """`NAME.html`, with `NAME.css` and `NAME.js` below the shared style, and parts at its places `{{part}}`.

    Browsers are told to run only this script and to fetch nothing, so that not even a mistake in the page could.

    Args:
        parts: HTML, escaped already. What stands in a part is never taken for a place itself.
        media: what a browser may load all the same, as in a Content-Security-Policy.
    """
    style = f"\n{_read('shared.css')}\n{_read(f'{name}.css')}"
    script = f"\n{_read(f'{name}.js')}"
    allowed = {"img": f"data: {media}", "media": media or "'none'", "style": _hash(style), "script": _hash(script)}
    policy = "; ".join(["default-src 'none'", *(f"{kind}-src {source}" for kind, source in allowed.items())])
    own = {"style": style, "script": script, "policy": policy}
    return _PLACE.sub(lambda place: {**parts, **own}[place[1]], _read(f"{name}.html"))


def script_data(value: Any) -> str:
    """JSON that may stand in a `<script type="application/json">`, which a `</script>` in a text would end."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def escaped(text: object) -> str:
    """Text for HTML and its attributes; halves of characters, which file names may hold, become question marks."""
    return escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").rstrip("\n")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
