"""The one training loop: every draw follows from (seed, part, step), so a killed run goes on bit for bit.

That holds on one kind of device: others draw other noise.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.training.capture import Captured
from consisti2v_cli.training.pictures import save_picture
from consisti2v_cli.training.records import Records
from consisti2v_cli.training.settings import LoopSettings
from consisti2v_cli.weights.backends import check_compiler, keep_compiled

if TYPE_CHECKING:
    from accelerate import Accelerator

Figures = dict[str, Tensor]  # scalars on the training device
Model = nn.Module | Captured  # what is trained, as a step calls it
FINITE = ("loss", "gradient")  # figures that must be, or the weights are lost


@dataclass(frozen=True)
class Draw:
    """Where in a training we are; the source of all its randomness."""

    seed: int
    part: str
    step: int  # 0 for the first
    process: int = 0
    batch: int = 0  # of those that make up one step

    def generator(self, *purpose: str | int, device: torch.device | str = "cpu") -> Generator:
        """A generator for this step alone; `purpose` tells several draws of one step apart."""
        return seeded(self.seed, self.part, self.step, self.process, self.batch, *purpose, device=device)


def seeded(*what: str | int, device: torch.device | str = "cpu") -> Generator:
    """A generator whose state follows from `what` alone; each kind of device makes other numbers of it."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Part(ABC):
    """What the loop trains."""

    name: str
    settings: Any  # a LoopSettings with what the part adds
    module: Any  # an nn.Module: all that learns, and what `loss` calls

    @abstractmethod
    def loss(self, model: Model, draw: Draw) -> tuple[Tensor, Figures]:
        """The loss of one batch; `model` is `module`, perhaps wrapped, compiled or captured: it takes tensors alone, by
        position, and what it returns holds until it is called again."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser, each with `rate`: a multiple of the learning rate."""
        return decay_groups(self.module, self.settings.weight_decay)

    def learning_rate(self, step: int) -> float:
        """The learning rate before warm-up and decay."""
        return float(self.settings.learning_rate)

    def constrain(self) -> None:  # noqa: B027, most parts have nothing to do
        """Called after each step: put parameters back into their range."""

    @abstractmethod
    def sample(self, step: int) -> tuple[dict[str, float], Image.Image | None]:
        """Figures and a picture of what has been learned so far."""

    @abstractmethod
    def save(self) -> None:
        """Write the finished weights into the model folder."""


class Average:
    """Exponential moving average of the weights; its decay warms up as (1 + step) / (10 + step).

    Between two steps the module's weights lie where they always lay: what is captured knows them by their place.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.weights = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, list(self.live), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.weights, [weight.to(self.weights[0].device) for weight in weights])

    def _swap(self) -> None:
        for index, parameter in enumerate(self.live):
            parameter.data, self.weights[index] = self.weights[index], parameter.data


@dataclass
class State:
    """All that a training is, between two steps."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    step: int = 0
    seconds: float = 0.0  # spent so far, over all runs

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over a checkpoint; RequestError when it is of another model."""
        try:
            self.module.load_state_dict(saved["model"])
            self.average.load(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise RequestError(f"The checkpoint does not fit this configuration: {reason}") from error
        self.step, self.seconds = saved["step"], saved["seconds"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.module.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Outcome:
    """How a run of the loop ended."""

    step: int
    reason: str  # "finished", "time" or "interrupted"


def train(
    part: Part,
    settings: LoopSettings,
    folder: Path,
    accelerator: Accelerator,
    *,
    minutes: float | None = None,
    on_log: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Outcome:
    """Train a part to its last step, or go on where an earlier run of it stopped.

    Checkpoints, log and pictures are in `folder`; after so many `minutes` it stops with a checkpoint; `on_log` gets
    every line of the log. Raises RequestError when the checkpoint found there does not fit the part, and
    ConsistI2VError when the loss or its gradient is not finite (the last checkpoint stays).
    """
    records = Records(folder)
    model, state = _prepare(part, settings, accelerator, records)
    watch = _Watch(state, settings, records, accelerator)
    reason = "finished"
    if state.step >= settings.steps:  # perhaps killed before the last weights were written
        _export(part, state, accelerator)
    with _interruptible() as interrupted:
        while state.step < settings.steps and reason == "finished":
            watch.add(_step(part, model, state, settings, accelerator))
            reason = _why_stop(interrupted(), watch.over(minutes), accelerator, state.step % settings.log_every == 0)
            last = state.step == settings.steps or reason != "finished"
            sampling, saving = last or due(state, settings.sample_every), last or due(state, settings.save_every)
            if sampling or saving or due(state, settings.log_every):
                line = watch.log(part, sampling)
                if accelerator.is_main_process:
                    on_log(line)
            if saving:
                if accelerator.is_main_process:
                    records.save(state.step, state.to_dict())
                    records.draw_curve()
                _export(part, state, accelerator)
    return Outcome(state.step, "finished" if state.step >= settings.steps else reason)


def due(state: State, every: int) -> bool:
    """Whether the step just done is one of every so many."""
    return state.step % every == 0


def learning_rate(base: float, step: int, settings: LoopSettings) -> float:
    """The rate of step `step` (0 the first): a linear warm-up, then constant or a cosine down to a hundredth."""
    rate = base * min(1.0, (step + 1) / max(settings.warmup, 1))
    if settings.schedule == "cosine":
        rate *= 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(step / settings.steps, 1.0)))
    return rate


def autocast(device: torch.device, dtype: str, *, cached: bool = True) -> AbstractContextManager[Any]:
    """Mixed precision as the settings name it: nothing for fp32.

    `cached`: whether weights are cast once for all that uses them inside; what is captured must cast them itself.
    """
    if dtype != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=cached)


def decay_groups(module: nn.Module, weight_decay: float, rate: float = 1.0) -> list[dict[str, Any]]:
    """Two parameter groups: matrices and convolutions decay; biases, norms and alphas do not."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in learning if parameter.ndim >= 2]
    free = [parameter for parameter in learning if parameter.ndim < 2]
    return [
        {"params": decaying, "weight_decay": weight_decay, "rate": rate},
        {"params": free, "weight_decay": 0.0, "rate": rate},
    ]


def _prepare(part: Part, settings: LoopSettings, accelerator: Accelerator, records: Records) -> tuple[Model, State]:
    part.module.to(accelerator.device)
    optimizer = torch.optim.AdamW(part.groups(), lr=settings.learning_rate, betas=(0.9, 0.999), fused=True)
    state = State(part.module, optimizer, Average(part.module, settings.ema))
    saved = records.load()
    if saved:
        state.restore(saved)
    if accelerator.is_main_process:
        records.forget_after(state.step)
    accelerator.wait_for_everyone()
    model, state.optimizer = accelerator.prepare(part.module, optimizer)
    return _faster(model, accelerator) if settings.compile else model, state


def _faster(model: nn.Module, accelerator: Accelerator) -> Model:
    """The same module: one process on cuda captures it, others compile it, when it is first called with a shape."""
    if accelerator.device.type == "cuda" and accelerator.num_processes == 1:
        return Captured(model)
    check_compiler(accelerator.device)
    keep_compiled()
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def _step(part: Part, model: Model, state: State, settings: LoopSettings, accelerator: Accelerator) -> dict[str, Any]:
    """One optimiser step; returns scalars on the device, so that nothing waits for it."""
    model.train()
    rate = learning_rate(part.learning_rate(state.step), state.step, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    total: Figures = {}
    for batch in range(settings.accumulate):
        final = batch == settings.accumulate - 1
        draw = Draw(settings.seed, part.name, state.step, accelerator.process_index, batch)
        with nullcontext() if final else accelerator.no_sync(model):
            loss, figures = part.loss(model, draw)
            accelerator.backward(loss / settings.accumulate)
        for name, value in {"loss": loss, **figures}.items():
            total[name] = total.get(name, 0) + value.detach().float() / settings.accumulate
    total["gradient"] = accelerator.clip_grad_norm_(part.module.parameters(), settings.clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    part.constrain()
    state.step += 1
    state.average.update(state.step)
    return {"learning_rate": rate, **total}


class _Watch:
    """Time and figures since the last line of the log."""

    def __init__(self, state: State, settings: LoopSettings, records: Records, accelerator: Accelerator) -> None:
        self.state, self.settings, self.records, self.accelerator = state, settings, records, accelerator
        self.started, self.before = time.monotonic(), state.seconds
        self.pending: list[dict[str, Any]] = []

    def add(self, figures: dict[str, Any]) -> None:
        self.pending.append(figures)
        self.state.seconds = self.before + time.monotonic() - self.started

    def over(self, minutes: float | None) -> bool:
        return minutes is not None and time.monotonic() - self.started >= minutes * 60

    def log(self, part: Part, sampling: bool) -> dict[str, Any]:
        """Average what is pending into one line, with figures and a picture of samples if it is time for them."""
        names = [name for name in self.pending[-1] if name != "learning_rate"]
        table = torch.stack([torch.stack([figures[name].float() for name in names]) for figures in self.pending]).cpu()
        self._refuse_infinite(table[:, [names.index(name) for name in FINITE]])
        means = dict(zip(names, table.mean(dim=0).tolist(), strict=True))
        line = {"step": self.state.step, **means, "learning_rate": self.pending[-1]["learning_rate"]}
        line["seconds"] = round(self.state.seconds, 2)
        if self.accelerator.is_main_process:
            if sampling:
                line |= self._sample(part)
            self.records.log({key: _short(value) for key, value in line.items()})
        self.pending = []
        return line

    def _sample(self, part: Part) -> dict[str, float]:
        part.module.eval()
        with self.state.average.applied(), torch.no_grad():
            figures, picture = part.sample(self.state.step)
        if picture:
            save_picture(picture, self.records.folder / "samples" / f"{self.state.step:08d}.png")
        return figures

    def _refuse_infinite(self, values: Tensor) -> None:
        """Steps by FINITE. A gradient spoils the weights while the loss of its step may still be a number."""
        bad = torch.nonzero(~torch.isfinite(values)).tolist()
        if bad:
            row, column = bad[0]
            step = self.state.step - len(values) + row + 1
            found = self.records.checkpoints()
            kept = f"{found[-1].name} is untouched" if found else "there is no checkpoint yet"
            what = f"The {FINITE[column]} of step {step} is not finite"
            raise ConsistI2VError(f"{what}; {kept}. Try a lower learning rate.")


def _short(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _export(part: Part, state: State, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        part.module.eval()
        with state.average.applied(), torch.no_grad():
            part.save()
    accelerator.wait_for_everyone()


def _why_stop(interrupted: bool, over: bool, accelerator: Accelerator, meeting: bool) -> str:
    """Why to stop after this step; processes agree on it, and so only when they meet to log."""
    reasons = ("finished", "time", "interrupted")
    mine = 2 if interrupted else int(over)
    if accelerator.num_processes == 1:
        return reasons[mine]
    if not meeting:
        return reasons[0]
    everyone = accelerator.gather(torch.tensor([mine], device=accelerator.device))
    return reasons[int(everyone.max())]


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM only asks to stop; the second ends the program at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
