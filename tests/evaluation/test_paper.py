"""The paper's measures with tiny networks of made-up weights, in files of the published names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up_model
import numpy as np
import pytest
import torch
from known_clips import KINDS, photo
from PIL import Image

from consisti2v_cli.evaluation import extractors, judges, metrics, run, sets
from consisti2v_cli.evaluation.clips import find_clips
from consisti2v_cli.evaluation.extractors import Networks
from consisti2v_cli.evaluation.networks import preprocess, viclip
from consisti2v_cli.evaluation.paper import PAPER
from consisti2v_cli.evaluation.run import Judged, choose_measures, judge
from consisti2v_cli.evaluation.sets import FID, FVD, IS, Moments, excerpt_of, spread
from consisti2v_cli.media.video import write_video
from consisti2v_cli.recipe import Recipe, to_json
from consisti2v_cli.state import content_sha256

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all networks that transformers has."""
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        CLIPConfig,
        CLIPModel,
        Owlv2Config,
        Owlv2ForObjectDetection,
        ViTConfig,
        ViTModel,
    )

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY, patch_size=16, image_size=224)).save_pretrained(folder / "dino-b16")
    for key, kind, config in (
        ("clip-b32", CLIPModel, CLIPConfig),
        ("owlv2-base", Owlv2ForObjectDetection, Owlv2Config),
    ):
        vocabulary = made_up_model._write_tokenizer(folder / key)
        text = {**TINY, "vocab_size": vocabulary, "eos_token_id": vocabulary - 1, "max_position_embeddings": 77}
        size = {"clip-b32": 224, "owlv2-base": 960}[key]
        vision = {**TINY, "patch_size": size // 7, "image_size": size}
        kind(config(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder / key)
    (folder / "blip-base").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "dog", "sea", "."]
    (folder / "blip-base" / "vocab.txt").write_text("\n".join(words))
    (folder / "blip-base" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    text = {**TINY, "vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**TINY, "patch_size": 96, "image_size": 384}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=32, image_text_hidden_size=32)
    BlipForConditionalGeneration(config).save_pretrained(folder / "blip-base")
    return folder


@pytest.fixture(autouse=True)
def known(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Judges whose files are those of the folder; nothing is in the cache."""
    for name in ("CONSISTI2V_CACHE", "CONSISTI2V_STATE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("empty")))
    for place in weights.iterdir():
        files = tuple(sorted(path.name for path in place.iterdir()))
        first = tuple(name for name in files if name.endswith(".safetensors"))
        files = (*first, *(name for name in files if name not in first))
        own = replace(judges.JUDGES[place.name], files=files, sha256=("",) * len(files))
        monkeypatch.setitem(judges.JUDGES, place.name, own)
    loaded = viclip.load_tokenizer

    def tokenizer(folder: Path) -> Any:
        return loaded(folder, vocabulary=len(json.loads((folder / "vocab.json").read_text())))

    monkeypatch.setattr(viclip, "load_tokenizer", tokenizer)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A still clip and a pan that were made of a photo, and one whose origin is not known."""
    folder = tmp_path / "clips"
    folder.mkdir()
    Image.fromarray(photo()).save(folder / "coffee.png")
    recipe = Recipe(
        prompt="the boat left",
        seed=1,
        input_name="coffee.png",
        input_sha256=content_sha256(folder / "coffee.png"),
        width=128,
        height=128,
    )
    for name in ("still", "pan"):
        write_video(folder / f"{name}.mp4", KINDS[name](), 8, quality=100, comment=to_json(recipe))
    write_video(folder / "noise.mp4", KINDS["noise"](), 8)
    return folder


def by_name(folder: Path, wanted: str, weights: Path | None = None, **more: Any) -> dict[str, Judged]:
    measures = choose_measures(wanted)
    return {clip.name: clip for clip in judge(find_clips(folder), measures, networks=Networks(weights=weights), **more)}


def test_what_needs_weights_says_which_command_fetches_them(clips: Path) -> None:
    found = by_name(clips, "paper")["still.mp4"].scores
    assert found.values.keys() == {"flickering", "dynamic_dis"}
    assert found.reasons.keys() == {measure.key for measure in PAPER} - {"flickering"}
    assert "consisti2v fetch-weights dino-b16" in found.reasons["subject_dino"]
    assert "consisti2v fetch-weights raft-things" in found.reasons["dynamic_raft"]
    assert "consisti2v fetch-weights viclip-l14" in found.reasons["overall_viclip"]


def test_a_still_clip_has_all_consistency_and_words_are_compared(clips: Path, weights: Path) -> None:
    found = by_name(clips, "subject_dino,background_clip,i2v_subject_dino,i2v_last_dino,clipsim", weights=weights)
    still, pan, noise = (found[f"{name}.mp4"].scores for name in ("still", "pan", "noise"))
    for key in ("subject_dino", "background_clip", "i2v_subject_dino", "i2v_last_dino"):
        assert still.values[key] == pytest.approx(1, abs=0.01)
        assert pan.values[key] < still.values[key]
    assert len(pan.series["subject"]) == len(KINDS["pan"]()) - 1
    assert len(pan.series["photo"]) == len(KINDS["pan"]())
    assert 0 <= still.values["clipsim"] <= 1
    assert noise.reasons["clipsim"] == "no prompt"
    assert noise.reasons["i2v_last_dino"] == "no recipe"
    assert "subject_dino" in noise.values


def test_consistency_never_comes_without_motion() -> None:
    assert [measure.key for measure in choose_measures("subject_dino")] == [
        "subject_dino",
        "dynamic_raft",
        "dynamic_dis",
    ]
    assert "dynamic_dis" in {measure.key for measure in choose_measures("consistency_efficientnet")}


def test_consistency_is_withheld_where_no_motion_was_measured(clips: Path, weights: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("consisti2v_cli.evaluation.quick.dis_flow", lambda *_: 1 / 0)
    found = by_name(clips, "subject_dino", weights=weights)["pan.mp4"].scores
    assert "subject_dino" not in found.values
    assert found.reasons["subject_dino"] == "not shown without dynamic degree (RAFT) or dynamic (DIS flow)"


def test_dino_reads_frames_as_the_library_does(clips: Path, weights: Path) -> None:
    from transformers import ViTModel

    frames = KINDS["pan"]()[:2]
    with Networks(weights=weights) as networks:
        found = networks("dino-b16")(frames)
    theirs = ViTModel.from_pretrained(weights / "dino-b16", add_pooling_layer=False, layer_norm_eps=1e-6).eval()
    with torch.no_grad():
        expected = theirs(preprocess.dino_pictures(frames)).last_hidden_state[:, 0]
    assert np.allclose(found, expected, atol=1e-5)


def test_clip_reads_words_and_frames_as_the_library_does(weights: Path) -> None:
    from transformers import CLIPModel

    theirs = CLIPModel.from_pretrained(weights / "clip-b32").eval()
    frames = KINDS["pan"]()[:3]
    with Networks(weights=weights) as networks, torch.no_grad():
        ours = networks("clip-b32")
        tokens = torch.tensor(ours.tokenizer(["the boat left"])["input_ids"])
        pictures = preprocess.clipsim_pictures(frames)
        expected = theirs(input_ids=tokens, pixel_values=pictures).logits_per_image[:, 0] / theirs.logit_scale.exp()
        cosines = metrics.unit(ours.beside_words(frames)) @ metrics.unit(ours.words("the boat left"))
    assert np.allclose(cosines, expected, atol=1e-5)


def test_objects_and_scenes_are_looked_for_where_they_are_named(clips: Path, weights: Path, monkeypatch: Any) -> None:
    said = iter([["a dog . sea", "a dog", "the sea", "dogs at sea"] * 4])
    asked = []

    def owl(frames: Any, word: str) -> Any:
        asked.append((len(frames), word))
        return np.arange(16) < 4

    monkeypatch.setitem(extractors._BUILDERS, "owlv2-base", lambda *_: owl)
    monkeypatch.setitem(extractors._BUILDERS, "blip-base", lambda *_: lambda frames: next(said))
    words = {"pan.mp4": {"object": "boat", "scene": "sea dog"}}
    found = by_name(clips, "object_owlv2,scene_blip", weights=weights, words=words)
    assert asked == [(16, "boat")]
    assert found["pan.mp4"].scores.values == {"object_owlv2": 0.25, "scene_blip": 0.25}
    assert found["still.mp4"].scores.reasons["object_owlv2"] == "no object is named for it"
    other = by_name(clips, "object_owlv2", weights=weights, words={"pan.mp4": {"object": "cat"}})
    assert asked[-1] == (16, "cat")
    assert other["pan.mp4"].scores.values == {"object_owlv2": 0.25}


def test_detector_and_captioner_run(weights: Path) -> None:
    frames = KINDS["pan"]()[:2]
    with Networks(weights=weights) as networks:
        assert networks("owlv2-base")(frames, "boat").tolist() in (
            [True, True],
            [True, False],
            [False, True],
            [False] * 2,
        )
        captions = networks("blip-base")(frames)
    assert len(captions) == 2
    assert all(isinstance(caption, str) for caption in captions)


def test_weights_of_another_network_are_refused(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    place = tmp_path / "others" / "dino-b16"
    place.mkdir(parents=True)
    tensors = load_file(weights / "dino-b16" / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("layernorm.weight")))
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    (place / "config.json").write_bytes((weights / "dino-b16" / "config.json").read_bytes())
    with Networks(weights=tmp_path / "others") as networks:
        for _ in range(2):
            with pytest.raises(Exception, match=r"not those of ViTModel: .*layernorm"):
                networks("dino-b16")


def test_what_a_broken_network_gives_is_no_score(clips: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extractors._BUILDERS, "dino-b16", lambda *_: lambda frames: np.full((len(frames), 4), np.nan))
    monkeypatch.setitem(extractors._BUILDERS, "clip-b32", lambda *_: lambda frames: np.zeros((len(frames), 4)))
    found = by_name(clips, "subject_dino,background_clip,flickering", weights=weights)["pan.mp4"].scores
    assert found.reasons["subject_dino"] == "features are not finite"
    assert found.reasons["background_clip"] == "a feature is zero"
    assert "flickering" in found.values


@pytest.fixture
def spread_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Folders of clips, and networks that tell their mean colours: the features are known."""

    def colours(frames: Any) -> Any:
        return frames.reshape(len(frames), -1, 3).mean(axis=1).astype(np.float32)

    monkeypatch.setattr(judges, "find_judge", None)
    monkeypatch.setattr(
        extractors,
        "find_judge",
        lambda key, folder=None: type("Files", (), {"identity": key, "revision": None, "sha256": {}})(),
    )
    for key in sets.NETWORKS.values():
        monkeypatch.setitem(extractors._BUILDERS, key, lambda *_: lambda frames: colours(frames[:1]))

    def make(name: str, seed: int, count: int = 20) -> Any:
        generator = np.random.default_rng(seed)
        (tmp_path / name).mkdir()
        levels = generator.integers(0, 255, (count, 3))
        for number, level in enumerate(levels):
            frames = np.broadcast_to(level.astype(np.uint8), (16, 32, 32, 3))
            write_video(tmp_path / name / f"{number:02}.mp4", frames, 8, quality=100)
        clips = [excerpt_of(clip) for clip in find_clips(tmp_path / name)]
        return clips, np.concatenate([colours(clip.read()[:1]) for clip in clips])

    return make


def test_frechet_distances_of_folders(spread_out: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (ours, a), (real, b) = spread_out("ours", 1), spread_out("real", 2)
    with Networks() as networks:
        assert spread(FVD, ours, real, networks).value == pytest.approx(metrics.frechet_distance(a, b), rel=1e-5)
        assert spread(FID, ours, real, networks).value == pytest.approx(
            metrics.frechet_distance(a, b, ddof=0), rel=1e-5
        )
        few = spread(FVD, ours[:15], real, networks)
        assert (few.value, few.reason) == (None, "clips: 15, where at least 16 are needed")
        monkeypatch.setattr(sets.Excerpt, "read", lambda _: pytest.fail("read again"), raising=False)
        again = spread(FVD, ours, ours, networks)
        assert again.value == pytest.approx(0, abs=1e-3)
        assert "fewer than 2048" in again.notes[0]


@pytest.mark.parametrize(("level", "said"), [(np.nan, "are not finite"), (0.0, "is zero")])
@pytest.mark.parametrize("measure", [FVD, FID, IS])
def test_a_broken_network_fails_its_measure(spread_out, monkeypatch: pytest.MonkeyPatch, measure, level, said) -> None:
    ours, _ = spread_out("ours", 1)
    for key in sets.NETWORKS.values():
        monkeypatch.setitem(extractors._BUILDERS, key, lambda *_: lambda frames: np.full((1, 7), level, np.float32))
    with Networks() as networks:
        found = spread(measure, ours, ours, networks)
    assert found.value is None
    assert found.reason.endswith(said)


def test_a_damaged_memory_of_features_is_measured_again(spread_out: Callable[..., Any]) -> None:
    ours, _ = spread_out("ours", 1)
    with Networks() as networks:
        before = spread(FID, ours, ours, networks)
        for path in (run.scores_folder() / "features").glob("*.npy"):
            path.write_bytes(b"")
        assert spread(FID, ours, ours, networks) == before


def test_the_file_that_was_checked_is_the_one_that_is_used(weights: Path, tmp_path: Path) -> None:
    """A stray file of weights beside it changes nothing."""
    from safetensors.torch import load_file, save_file

    place = tmp_path / "mixed" / "clip-b32"
    shutil.copytree(weights / "clip-b32", place)
    tensors = load_file(place / "model.safetensors")
    torch.save(tensors, place / "pytorch_model.bin")
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, place / "model.safetensors")
    own = replace(judges.JUDGES["clip-b32"], files=("pytorch_model.bin", "config.json", "vocab.json", "merges.txt"))
    with pytest.MonkeyPatch.context() as patch, Networks(weights=tmp_path / "mixed") as networks:
        patch.setitem(judges.JUDGES, "clip-b32", replace(own, sha256=("",) * 4))
        assert np.abs(networks("clip-b32")(KINDS["pan"]()[:1])).max() > 0


def test_a_clip_that_cannot_be_used_is_left_out_and_said(spread_out: Callable[..., Any]) -> None:
    ours, _ = spread_out("ours", 1)

    def fails() -> Any:
        raise ValueError("9 frames, where 16 are needed")

    broken = replace(ours[3], read=fails, sha256=lambda: "?")
    with Networks() as networks:
        found = spread(FID, [*ours[:3], broken, *ours[4:]], ours, networks)
    assert found.n == 19
    assert found.left_out == ["03.mp4: 9 frames, where 16 are needed"]


def test_inception_score_of_a_folder(spread_out: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = spread_out("ours", 1)
    classes = iter(np.eye(101, dtype=np.float32)[:20, None])
    monkeypatch.setitem(extractors._BUILDERS, "c3d-ucf101", lambda *_: lambda frames: next(classes))
    with Networks() as networks:
        found = spread(IS, ours, [], networks)
    assert found.value == pytest.approx(2)  # two clips, two classes in each of ten parts
    assert found.deviation == pytest.approx(0)


def test_moments_are_those_of_all_rows() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(60, 5)), generator.normal(1, 2, size=(40, 5))
    one, other = Moments.of(iter(np.split(a, 6))), Moments.of(iter(np.split(b, 8)))
    assert np.allclose(one.covariance, np.cov(a.T, bias=True))
    assert one.distance(other) == pytest.approx(metrics.frechet_distance(a, b, ddof=0))


def test_all_measures_have_names_of_their_own() -> None:
    every = [*run.MEASURES.values(), *sets.SPREADS]
    assert len({measure.key for measure in every}) == len({measure.label for measure in every}) == len(every)
