"""ConsistI2V, from the command line and from Python: `consisti2v_cli.animate("photo.jpg", "the boat drifts left")`."""

from typing import TYPE_CHECKING, Any

from consisti2v_cli.version import __version__

if TYPE_CHECKING:
    from consisti2v_cli.clip import Clip
    from consisti2v_cli.render import animate

__all__ = ["Clip", "__version__", "animate"]


def __getattr__(name: str) -> Any:
    """Load `animate` and `Clip`, and torch with them, only when they are asked for."""
    if name in ("Clip", "animate"):
        from consisti2v_cli import clip, render

        return getattr(clip if name == "Clip" else render, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
