"""ConsistI2V, from the command line and from Python: `consisti2v_cli.animate("photo.jpg", "the boat drifts left")`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consisti2v_cli.render import Clip, animate

__version__ = "0.1.0"
__all__ = ["Clip", "__version__", "animate"]


def __getattr__(name: str) -> Any:
    """Load `animate` and `Clip`, and torch with them, only when they are asked for."""
    if name in ("Clip", "animate"):
        from consisti2v_cli import render

        return getattr(render, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
