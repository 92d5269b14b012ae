"""Training the text side: a small byte-level BPE, and a CLIP text encoder that learns to tell the classes of motion."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from consisti2v_cli.errors import RequestError
from consisti2v_cli.training.batch import STRIDES
from consisti2v_cli.training.captions import all_captions, caption
from consisti2v_cli.training.data import MOTIONS
from consisti2v_cli.training.loop import Draw, Figures, Model, Part, autocast, seeded
from consisti2v_cli.training.records import BEGINNING, publishing
from consisti2v_cli.training.settings import TextSettings

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
TESTED = 512  # captions that measure the accuracy
BEFORE_NETWORK = Path("training", "network", BEGINNING)  # holds text_encoder/ as it was before joint training


def train_tokenizer(captions: Iterable[str], vocabulary: int, tokens: int) -> CLIPTokenizer:
    """Make a lower-case byte-level BPE in CLIP's form out of captions.

    Every byte is in the vocabulary, alone and at the end of a word, so any text can be read.

    Args:
        vocabulary: number of tokens, at least 514 (two for every byte, start and end).
        tokens: length that captions are padded or cut to.

    Raises:
        RequestError: the vocabulary has no room for every byte.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    basic = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    room = vocabulary - len(basic) - 2
    if room < 0:
        raise RequestError(f"vocabulary = {vocabulary}: every byte needs its tokens, {len(basic) + 2} or more.")
    merges = _learn_merges(captions, vocabulary, alphabet)[:room]
    names = [*basic, *("".join(pair) for pair in merges), START, END]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=tokens)


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Token numbers of captions, `b tokens`: padded and cut as rendering does it."""
    length = tokenizer.model_max_length
    encoded = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def save_text_encoder(encoder: Any, folder: Path) -> None:
    """Write `text_encoder/` of a model folder."""
    disable_progress_bar()
    with publishing(folder / "text_encoder") as place:
        encoder.save_pretrained(place)


class Classifier(nn.Module):
    """A text encoder, and a linear head on the mean of its tokens."""

    def __init__(self, encoder: CLIPTextModel, classes: int) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """`b tokens` -> `b classes`."""
        scores: Tensor = self.head(self.encoder(ids).last_hidden_state.mean(dim=1))
        return scores


class TextPart(Part):
    """Tokenizer and text encoder as the loop sees them; it writes `tokenizer/` and `text_encoder/`."""

    name = "text"

    def __init__(self, settings: TextSettings, folder: Path, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder, self.device = settings, folder, device
        self.tokenizer: Any = train_tokenizer(all_captions(), settings.vocabulary, settings.tokens)
        config = CLIPTextConfig(
            **settings.model,
            vocab_size=len(self.tokenizer),
            max_position_embeddings=settings.tokens,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.classes = list(MOTIONS)
        self.module = Classifier(CLIPTextModel(config), len(self.classes))

    def loss(self, model: Model, draw: Draw) -> tuple[Tensor, Figures]:
        """Cross-entropy of the class of motion that a caption speaks of."""
        captions, classes = self._draw(self.settings.batch, draw.generator("captions"))
        with autocast(self.device, self.settings.dtype):
            scores = model(tokenize(self.tokenizer, captions).to(self.device)).float()
        return F.cross_entropy(scores, classes), {"accuracy": (scores.argmax(dim=1) == classes).float().mean()}

    def sample(self, step: int) -> tuple[dict[str, float], Image.Image | None]:
        """How many captions the averaged weights classify rightly; there is nothing to see."""
        captions, classes = self._draw(TESTED, seeded(self.settings.seed, self.name, "test"))
        scores = self.module(tokenize(self.tokenizer, captions).to(self.device))
        return {"test_accuracy": (scores.argmax(dim=1) == classes).float().mean().item()}, None

    def save(self) -> None:
        """Write both folders; the head has done its work and is left out.

        From now on the network starts from these weights, and no longer from the copy it keeps of earlier ones.
        """
        with publishing(self.folder / "tokenizer") as place:
            self.tokenizer.save_pretrained(place)
        save_text_encoder(self.module.encoder, self.folder)
        shutil.rmtree(self.folder / BEFORE_NETWORK, ignore_errors=True)

    def _draw(self, count: int, generator: Generator) -> tuple[list[str], Tensor]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        classes = [rng.randrange(len(self.classes)) for _ in range(count)]
        captions = [caption(self.classes[number], rng.randint(1, STRIDES), rng) for number in classes]
        return captions, torch.tensor(classes, device=self.device)


def _learn_merges(captions: Iterable[str], vocabulary: int, alphabet: list[str]) -> list[tuple[str, str]]:
    """The most frequent pairs, in the order in which they are merged."""
    raw = RawTokenizer(models.BPE(end_of_word_suffix=WORD_END))
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    raw.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False
    )
    raw.train_from_iterator(captions, trainer)
    return [tuple(pair) for pair in json.loads(raw.to_str())["model"]["merges"]]
