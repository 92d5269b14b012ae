"""The networks that judge clips: which files they are, where those lie, and how they come here when a person asks.

They share the cache, the downloads and the checks of `consisti2v_cli.weights`. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.weights.cache import hub_hash, same_hash, snapshot
from consisti2v_cli.weights.checking import CheckedFile, check_files
from consisti2v_cli.weights.hub import fetch_command, fetch_files
from consisti2v_cli.weights.inventory import Inventoried, describe_files, remove_files
from consisti2v_cli.weights.store import size_in_words

Progress = Callable[[str, int, int], None]  # stage, bytes done of all files, bytes of all files
Notice = Callable[[str], None]

FOLDER_VARIABLE = "CONSISTI2V_JUDGES"  # a folder with a folder for each judge, which is looked in before the cache


@dataclass(frozen=True)
class Judge:
    """A network that judges clips, as published."""

    key: str
    about: str  # what it is, and what it judges
    repo: str | None  # on the hub; None: a person puts its files into a folder
    revision: str  # commit
    files: tuple[str, ...]  # the one with the tensors first
    sha256: tuple[str, ...]  # of each file, or its ends (`same_hash`); "" where none is known
    bytes: int  # of all files, about
    licence: str  # of the weights
    release: str = ""  # where the files are published, for a judge without a repository
    inside: str = ""  # the folder of the repository in which the files lie

    @property
    def hashes(self) -> dict[str, str]:
        """For each file its sha256."""
        return dict(zip(self.files, self.sha256, strict=True))

    @property
    def entries(self) -> dict[str, str]:
        """The same by the files' names in the repository."""
        return {(Path(self.inside) / name).as_posix(): known for name, known in self.hashes.items()}

    @property
    def told(self) -> str:
        """What it is, its size and its licence, for a person."""
        return f"{self.about}, {size_in_words(self.bytes)}, {self.licence}"


@dataclass(frozen=True)
class JudgeFiles:
    """A judge's files on this machine."""

    key: str
    folder: Path
    paths: dict[str, Path]  # by the file's name
    revision: str | None  # the hub's commit; None in a folder of a person's own
    sha256: dict[str, str]  # by the file's name, of what is there

    @property
    def weights(self) -> Path:
        """The file with the tensors, of a judge that has one."""
        return self.paths[next(iter(self.paths))]

    @property
    def identity(self) -> str:
        """What tells these files from others."""
        return ",".join(self.sha256.values())


JUDGES: dict[str, Judge] = {
    judge.key: judge
    for judge in (
        Judge(
            key="dino-b16",
            about="DINO ViT-B/16, for subject consistency",
            repo="facebook/dino-vitb16",
            revision="f205d5d8e640a89a2b8ef0369670dfc37cc07fc2",
            files=("pytorch_model.bin", "config.json"),
            sha256=(
                "a064e36c67289caaa5c949c0b3f7f31a0fcbcba5721f5fa12419933ec1f4fe6e",
                "b87c0270b97db085fd82cf114a761fd0f62ae7914fbd407c752a2260646b689c",
            ),
            bytes=343_300_000,
            licence="Apache-2.0",
        ),
        Judge(
            key="clip-b32",
            about="CLIP ViT-B/32, for background consistency and CLIPSIM",
            repo="openai/clip-vit-base-patch32",
            revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
            files=(
                "pytorch_model.bin",
                "config.json",
                "vocab.json",
                "merges.txt",
                "tokenizer_config.json",
                "special_tokens_map.json",
            ),
            sha256=(
                "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
                "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770",
                "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363",
                "f526393189112391ce6f9795d4695f704121ce452c3aad1f5335cc41337eba85",
                "34b7336e4bee12e0a9730eaf5189f582ef3c3eea5027f65730e5717256755aad",
                "f8c0d6c39aee3f8431078ef6646567b0aba7f2246e9c54b8b99d55c22b707cbf",
            ),
            bytes=606_639_000,
            licence="MIT",
        ),
        Judge(
            key="raft-things",
            about="RAFT trained on FlyingThings, for dynamic degree",
            repo="GSean/GIMM-VFI",  # which has the authors' own file
            revision="ab7735cdcfbd2e03c1bf2819380a25e8a4f321d1",
            files=("raft-things.pth",),
            sha256=("fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",),
            bytes=21_108_000,
            licence="BSD-3-Clause",
        ),
        Judge(
            key="viclip-l14",
            about="ViCLIP-L/14 trained on InternVid, for overall video-text consistency",
            repo="OpenGVLab/ViCLIP-L-14-hf",
            revision="1652361522e1cb41c28cdfae870f690d00e7456b",
            files=("model.safetensors",),
            sha256=("07d32e92...0ee8f",),
            bytes=1_710_500_000,
            licence="no licence named, MIT at OpenGVLab/ViCLIP",
        ),
        Judge(
            key="i3d-k400",
            about="I3D trained on Kinetics-400, for FVD",
            repo="spaces/LanguageBind/Open-Sora-Plan-v1.0.0",
            revision="810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de",
            inside="opensora/eval/fvd/videogpt",
            files=("i3d_pretrained_400.pt",),
            sha256=("55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",),
            bytes=50_940_000,
            licence="MIT",
        ),
        Judge(
            key="inception-2015",
            about="Inception-v3 of 2015-12-05, for FID",
            repo=None,
            revision="",
            files=("pt_inception-2015-12-05-6726825d.pth",),
            sha256=("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",),
            bytes=95_628_000,
            licence="Apache-2.0",
            release="release fid_weights of https://github.com/mseitzer/pytorch-fid",
        ),
        Judge(
            key="c3d-ucf101",
            about="C3D fine-tuned on UCF-101, for the inception score",
            repo=None,
            revision="",
            files=("conv3d_deepnetA_ucf.npz", "mean2.npz"),
            sha256=("", ""),
            bytes=318_000_000,
            licence="licence unclear",
            release="release v1.0 of https://github.com/rezoo/tgan2",
        ),
        Judge(
            key="owlv2-base",
            about="OWLv2 base, for object consistency",
            repo="google/owlv2-base-patch16-ensemble",
            revision="cfd3195ba4ea9592eec887ded089f4c08eff231d",
            files=(
                "model.safetensors",
                "config.json",
                "preprocessor_config.json",
                "vocab.json",
                "merges.txt",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
            ),
            sha256=(
                "e1e130b9e404cf91a75ad45644c1da9d7fa5284085eecc864266a6923efb99e7",
                "ba9df8c25a4b8461887dd0a93d9252c9cd84697fe8d49a9d8794ce409af9acb2",
                "cf3e396635b797ee1a464e1b2836e98748f8edac19e89aaa2c93b55ac15b0064",
                *[""] * 5,
            ),
            bytes=621_500_000,
            licence="Apache-2.0",
        ),
        Judge(
            key="blip-base",
            about="BLIP base, which captions pictures, for scene consistency",
            repo="Salesforce/blip-image-captioning-base",
            revision="82a37760796d32b1411fe092ab5d4e227313294b",
            files=(
                "pytorch_model.bin",
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "vocab.txt",
            ),
            sha256=(
                "d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767",
                "f7846f82f4e2c4a2ccbab9ae8b0e44873540a271a76a1288effd078180c13a82",
                "065c10ec97edc5081fbd9655b3d9d25e2647ea6d5dab873325e88eed12d80a7d",
                "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
                "5c7f96096284c55e539eff95f4451c19efc34258ddb975a4400d052b77301e5e",
                "b6d346be366a7d1d48332dbc9fdf3bf8960b5d879522b7799ddba59e76237ee3",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
            bytes=990_769_000,
            licence="BSD-3-Clause",
        ),
    )
}


def find_judge(key: str, folder: Path | None = None) -> JudgeFiles:
    """A judge's files on this machine. Never asks the network, imports no torch.

    Args:
        key: of `JUDGES`.
        folder: looked in first, for `KEY/FILE`; then that of `FOLDER_VARIABLE`, then the cache. What a person put
            into a folder is read once to the end, for its hash.

    Raises:
        RequestError: there is no such judge.
        WeightsError: not all of its files are here, and how to get them; or one is not the file that is known.
    """
    judge = known_judge(key)
    found = _found(judge, folder)
    if found is None or found.missing:
        raise WeightsError(_absent(judge, found))
    paths = {name: found.path / name for name in judge.files}
    sha256 = {name: _sha256(path) for name, path in paths.items()}
    for name, known in judge.hashes.items():
        if known and not same_hash(sha256[name], known):
            mend = f"; run: {fetch_command(key)}" if found.repository else "; put that there, or nothing."
            raise WeightsError(f"{paths[name]} is not the file that is known (sha256 {known}){mend}")
    return JudgeFiles(key, found.path, paths, found.revision, sha256)


def fetch_judge(key: str, on_progress: Progress | None = None, on_notice: Notice | None = None) -> Path:
    """Bring a judge's files into the cache, whole and right, as `weights.fetch` does a model's. Returns their folder.

    What the folder of `FOLDER_VARIABLE` has is not fetched; one without a repository is only looked for.

    Raises:
        RequestError: there is no such judge.
        WeightsError: as in `weights.fetch`; or a file is not the one that is known: it is removed from the cache.
        ConsistI2VError: the disk is full, or the cache cannot be written.
    """
    judge = known_judge(key)
    found = _found(judge)
    if judge.repo is None or (found and not found.repository and not found.missing):
        return find_judge(key).folder
    place = fetch_files(key, judge.repo, judge.revision, judge.entries, on_progress=on_progress, on_notice=on_notice)
    return place / judge.inside


def list_judges() -> list[Inventoried]:
    """The judges of which something is on this machine, complete or not."""
    return [found for judge in JUDGES.values() if (found := _found(judge))]


def describe_judge(key: str) -> Inventoried:
    """What is on this machine of a judge. WeightsError where nothing is."""
    judge = known_judge(key)
    found = _found(judge)
    if found is None:
        raise WeightsError(_absent(judge, None))
    return found


def check_judge(key: str, on_progress: Progress | None = None) -> Iterator[CheckedFile]:
    """Read every file of a judge, and compare it with what is known of it, else with the hub's hash.

    Raises:
        RequestError: there is no such judge.
        WeightsError: nothing of it is on this machine.
    """
    yield from check_files(describe_judge(key).path, known_judge(key).hashes, on_progress)


def remove_judge(key: str, on_notice: Notice = print) -> tuple[Path, int]:
    """Delete a judge's files from the cache. Others of its repository, which other programs fetched, stay.

    Returns:
        The folder that they were in, and the bytes freed.

    Raises:
        RequestError: there is no such judge, or it is never in the cache.
        WeightsError: it is not in the cache.
        ConsistI2VError: not all of it could be removed.
    """
    judge = known_judge(key)
    if judge.repo is None:
        raise RequestError(f"{key} is in folders of your own only, in which nothing is removed. Do so by hand.")
    return remove_files(key, judge.repo, judge.revision, judge.entries, on_notice)


def known_judge(key: str) -> Judge:
    """A judge by its key. RequestError where there is none."""
    if key not in JUDGES:
        raise RequestError(f"There is no judge {key!r}; there are: {', '.join(JUDGES)}.")
    return JUDGES[key]


def _found(judge: Judge, folder: Path | None = None) -> Inventoried | None:
    """What is here of a judge: the first place that has all of it, else the first that has some."""
    places = [describe_files(judge.key, place, judge.files, judge.repo, at) for place, at in _places(judge, folder)]
    some = [found for found in places if len(found.missing) < len(judge.files)]
    return min(some, key=lambda found: bool(found.missing), default=None)


def _places(judge: Judge, folder: Path | None) -> Iterator[tuple[Path, str | None]]:
    """The folders where a judge's files may be, with the commit where it is one of the cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    for place in (folder, Path(os.path.expanduser(named)) if named else None):
        if place is not None:
            yield place / judge.key, None
    cached = snapshot(judge.repo, judge.revision) if judge.repo else None
    if cached:
        yield cached / judge.inside, cached.name


def _absent(judge: Judge, found: Inventoried | None) -> str:
    """What is missing of a judge, and how to get it."""
    some = (
        f"not all on this machine ({found.path} lacks {', '.join(found.missing)})" if found else "not on this machine"
    )
    what = f"The weights of {judge.key} ({judge.told}) are {some}"
    if judge.repo:
        return f"{what}; run: {fetch_command(judge.key)}"
    files = " and ".join(judge.files)
    where = f"DIR/{judge.key}, and name DIR in {FOLDER_VARIABLE}, or with --weights of consisti2v evaluate"
    return f"{what}; put {files} of {judge.release} into {where}."


def _sha256(path: Path) -> str:
    """A file's, by the name of the blob behind it where the hub gave it. WeightsError: it cannot be read."""
    given = hub_hash(path)
    if given and len(given) == 64:
        return given
    try:
        state = path.stat()
        return _read_sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from None


@cache
def _read_sha256(path: Path, size: int, changed: int) -> str:
    """A file's, read once while its size and time stay: every clip asks for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
