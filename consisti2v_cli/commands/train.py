"""`consisti2v train`: train a part of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from consisti2v_cli.commands.options import option, talk_options
from consisti2v_cli.commands.parsing import UserPath

EXAMPLES = """\b
Examples:
  consisti2v train autoencoder --data synthetic:photos --output my-model
  consisti2v train text --output my-model
  consisti2v train network --data synthetic:photos --output my-model --minutes 60
"""


@click.command(epilog=EXAMPLES)
@click.argument("part", type=click.Choice(("autoencoder", "text", "network")))
@option("--config", metavar="FILE", default="sketch", help="TOML file, or the name of a preset.")
@option(
    "--data",
    metavar="SPEC",
    default=None,
    default_text="none; text needs none",
    help="synthetic:DIR makes clips from the photos in DIR; else a folder of videos, or a CSV or JSON lines manifest.",
)
@option(
    "--videos",
    metavar="SPEC",
    default=None,
    default_text="none",
    help="Folder or manifest of videos of which the network's stages draw a share of their clips; kept in memory.",
)
@option(
    "-o",
    "--output",
    type=UserPath(file_okay=False, path_type=Path),
    required=True,
    help="Model folder. A training that was stopped there goes on from its last checkpoint.",
)
@option(
    "--validation",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    default=None,
    default_text="none",
    help="Folder of photos that are not trained on, for figures and sample pictures.",
)
@option(
    "--init",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    default=None,
    default_text="random weights",
    help="Model folder whose weights to start from (autoencoder, network).",
)
@option("--minutes", type=click.FloatRange(0), default=None, default_text="no limit", help="Stop after so long.")
@option("--steps", type=click.IntRange(1), default=None, default_text="as configured", help="Optimiser steps in all.")
@option("--batch", type=click.IntRange(1), default=None, default_text="as configured", help="Examples in a batch.")
@option("--learning-rate", type=click.FloatRange(0), default=None, default_text="as configured", help="After warm-up.")
@option("--seed", type=int, default=None, default_text="as configured", help="What every draw follows from.")
@option(
    "--dtype",
    type=click.Choice(("fp32", "bf16")),
    default=None,
    default_text="as configured",
    help="Precision of the computation; weights are kept in fp32.",
)
@option("--device", type=click.Choice(("auto", "cpu", "cuda", "mps")), default="auto", help="Where to train.")
@option(
    "--restart",
    is_flag=True,
    default_text="off: go on from the last checkpoint",
    help="Forget earlier checkpoints of this part.",
)
@talk_options
def train(part: str, config: str, output: Path, **options: Any) -> None:
    """Train a PART of a model: autoencoder, then text, then network.

    OUTPUT becomes a model folder for --model. Checkpoints, the log, the loss curve and pictures of samples are in
    OUTPUT/training/PART. Needs the extra `train`.
    Several devices: `torchrun --nproc-per-node 2 -m consisti2v_cli train ...`.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.training.run import run

    first = os.environ.get("RANK", "0") == "0"  # of the processes that train together
    console = Console(quiet=options.pop("quiet") or not first, verbosity=options.pop("verbose"))

    def tell(line: dict[str, Any]) -> None:
        figures = "  ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "step")
        console.notice(f"step {line['step']}  {figures}")

    outcome = run(part, config, output, on_log=tell, on_notice=console.notice, **options)
    console.notice(f"{part}: {outcome.reason} at step {outcome.step}; weights are in {output}")
    if outcome.reason == "interrupted":
        raise click.Abort
