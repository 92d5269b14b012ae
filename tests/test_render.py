"""From a recipe and a photo to frames, with a made-up model: what is promised of every clip."""

import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import consisti2v_cli
from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video
from consisti2v_cli.recipe import Recipe, from_json
from consisti2v_cli.render import DECODING, LOADING, STEPS, render
from consisti2v_cli.resolve import native_size, resolve
from consisti2v_cli.weights import ModelFolder, ModelSettings
from consisti2v_cli.weights.devices import choose_device, choose_dtype, use_cores
from consisti2v_cli.weights.load import load_model

PROMPT = "the boat drifts left"


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture
def image(photo):
    return photo("photo.png", size=(96, 64))


@pytest.fixture
def recipe(tiny_model):
    return Recipe(prompt=PROMPT, seed=7, model=str(tiny_model), frames=4, steps=2, guidance=3.0)


def test_a_photo_becomes_a_film(tiny_model, image, tmp_path):
    clip = consisti2v_cli.animate(image, PROMPT, seed=7, model=str(tiny_model))
    path = clip.save(tmp_path / "clip.mp4")
    frames, fps = read_video(path)
    assert clip.frames.shape == frames.shape == (4, 48, 80, 3)  # 64x64 pixels in the photo's 3:2
    assert clip.frames.dtype == np.uint8
    assert fps == 8
    assert clip.frames.std() > 0
    assert from_json(read_recipe(path)) == clip.recipe
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    shown = subprocess.run([ffmpeg, "-i", path], capture_output=True, text=True, check=False).stderr
    assert "h264" in shown
    assert "yuv420p(tv, bt709" in shown
    assert "80x48" in shown


def test_the_same_recipe_gives_the_same_bytes(recipe, image, model):
    first, second = (render(recipe, image, model=model) for _ in range(2))
    assert (first.frames == second.frames).all()
    for format in ("mp4", "gif"):
        streams = [BytesIO(), BytesIO()]
        for clip, stream in zip((first, second), streams, strict=True):
            clip.stream(stream, format)
        assert streams[0].getvalue() == streams[1].getvalue() != b""
    again = render(replace(first.recipe, model=recipe.model), image)  # the resolved one, with a model loaded anew
    assert (again.frames == first.frames).all()
    assert again.recipe == first.recipe


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "the boat stays"},
        {"negative": "blurred"},
        {"motion": 1},
        {"guidance": 6.0},
        {"guidance": 1.0},
        {"image_guidance": 2.0},
        {"guidance_rescale": 0.7},
        {"steps": 3},
        {"sampler": "dpm++"},
        {"steps": 4, "reuse": 2},
        {"guidance_begin": 0.6},
        {"guidance_end": 0.4},
        {"layout_strength": 500},
        {"layout_cutoff": 0.5},
        {"frameinit": False},
        {"noise": "vanilla"},
        {"noise": "progressive"},
        {"noise_correlation": 1.5},
        {"fit": "stretch", "width": 64, "height": 64},
    ],
    ids=str,
)
def test_every_field_matters(recipe, image, model, change):
    before = render(replace(recipe, width=64, height=64), image, model=model).frames
    after = render(replace(recipe, **({"width": 64, "height": 64} | change)), image, model=model).frames
    assert before.shape == after.shape
    assert (before != after).any()


def test_without_guidance_the_negative_prompt_is_not_read(recipe, image, model):
    plain = replace(recipe, guidance=1.0)
    assert (
        render(plain, image, model=model).frames == render(replace(plain, negative="x"), image, model=model).frames
    ).all()


def test_the_first_frame_is_the_photo_through_the_autoencoder(recipe, image, model):
    """Whatever happens later: it is the seed's draw of the photo's own latent, decoded."""
    clip = render(replace(recipe, width=96, height=64), image, model=model)
    pixels = torch.from_numpy(np.asarray(Image.open(image)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        posterior = model.vae.encode(pixels).latent_dist
        draw = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(recipe.seed))
        decoded = model.vae.decode(posterior.mean + posterior.std * draw).sample[0]
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(clip.frames[0] - expected).max() <= 1


def test_a_frame_decoded_alone_is_the_frame_decoded_among_others(recipe, image, model):
    short, long = (render(replace(recipe, frames=frames), image, model=model).frames for frames in (2, 6))
    assert (short[0] == long[0]).all()


@pytest.mark.parametrize("attention", ["sdpa", "math"])
@pytest.mark.parametrize("size", [(64, 64), (128, 32), (40, 72)])
def test_any_size(recipe, image, tiny_model, attention, size):
    asked = replace(recipe, width=size[0], height=size[1], attention=attention)
    assert render(asked, image).frames.shape == (4, size[1], size[0], 3)


def test_ways_to_compute_attention_agree(recipe, image):
    one, other = (render(replace(recipe, attention=kind), image).frames.astype(int) for kind in ("sdpa", "math"))
    assert np.abs(one - other).max() <= 1


def test_progress_is_told(recipe, image):
    told = []
    render(recipe, image, on_event=lambda *event: told.append(event))
    stages = [stage for stage, _, _ in told]
    assert list(dict.fromkeys(stages)) == [LOADING, STEPS, DECODING]
    for stage, total in ((LOADING, 3), (STEPS, 2), (DECODING, 4)):
        assert [(done, of) for name, done, of in told if name == stage] == [(n, total) for n in range(total + 1)]


def test_an_event_can_end_the_run(recipe, image, model):
    told = []

    def stop(stage, done, total):
        told.append((stage, done))
        if (stage, done) == (STEPS, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(recipe, image, model=model, on_event=stop)
    assert told[-1] == (STEPS, 1)


def test_a_long_prompt_is_cut_and_said_so(recipe, image, model):
    notices = []
    words = "the boat " * 7 + "sinks"
    long = render(replace(recipe, prompt=words), image, model=model, on_notice=notices.append)
    assert len(notices) == 1
    assert "14 tokens" in notices[0]
    assert notices[0].endswith("cut off: sinks")
    assert long.recipe.prompt == words
    render(recipe, image, model=model, on_notice=notices.append)
    assert len(notices) == 1


def test_the_recipe_is_resolved_and_names_no_folders(recipe, image, tiny_model):
    folder = ModelFolder(tiny_model, "tiny", "abc")
    resolved = resolve(recipe, image, folder)
    assert (resolved.width, resolved.height) == (80, 48)
    assert (resolved.model, resolved.revision, resolved.input_name) == ("tiny", "abc", "photo.png")
    assert len(resolved.input_sha256) == 64
    assert str(image.parent) not in str(resolved)
    assert resolve(recipe, image.read_bytes(), folder).input_sha256 == resolved.input_sha256
    assert resolve(resolved, image, folder) == resolved


def test_a_photo_on_its_side_gives_a_tall_clip(recipe, photo, tiny_model):
    resolved = resolve(recipe, photo("turned.jpg", size=(96, 64), orientation=6), ModelFolder(tiny_model, "tiny"))
    assert (resolved.width, resolved.height) == (48, 80)


@pytest.mark.parametrize(
    ("image", "native", "expected"),
    [
        ((1000, 1000), 256, (256, 256)),
        ((1920, 1080), 256, (352, 192)),
        ((1080, 1920), 256, (192, 352)),
        ((4000, 100), 256, (1024, 64)),  # as if it were 16:1
        ((1500, 1000), 128, (160, 112)),
        ((10, 10), 128, (128, 128)),
    ],
)
def test_native_size(image, native, expected):
    assert native_size(*image, ModelSettings(native_size=native)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 60, "height": 64}, "multiples of 8"),
        ({"width": 64}, "together"),
        ({"prompt": " "}, "prompt"),
        ({"frames": 1}, "frames"),
        ({"background": "blurple"}, "blurple"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_impossible_requests_are_refused_before_loading(recipe, image, change, message):
    with pytest.raises(RequestError, match=message):
        render(replace(recipe, **change), image, on_event=lambda *event: pytest.fail("loads"))


def test_a_broken_photo_is_refused_by_name(recipe, tmp_path):
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam")
    with pytest.raises(RequestError, match=r"letter\.jpg"):
        render(recipe, tmp_path / "letter.jpg")


def test_a_part_without_safetensors_is_refused(recipe, image, model_copy):
    part = model_copy / "vae"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="fetch-weights"):
        render(replace(recipe, model=str(model_copy)), image)


@pytest.mark.parametrize(("part", "message"), [("unet", "not finite in fp32"), ("vae", "not finite")])
def test_numbers_that_are_not_finite_are_no_clip(recipe, image, tiny_model, part, message):
    model = load_model(tiny_model)
    module = getattr(model, part)
    layer = module.conv_out if part == "unet" else module.decoder.conv_out
    layer.weight.fill_(torch.inf)
    with pytest.raises(ConsistI2VError, match=message):
        render(recipe, image, model=model)


def test_too_little_memory_is_said_with_advice(recipe, image, model):
    def allocate(stage, done, total):
        torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(ConsistI2VError, match=r"memory on cpu for 4 frames of 80x48; .*--size.*--dtype bf16") as caught:
        render(recipe, image, model=model, on_event=allocate)
    assert "fp16" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.99 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 68719476736 bytes."), True),
        (RuntimeError("expected scalar type Half"), False),
    ],
    ids=str,
)
def test_which_errors_are_of_memory(recipe, image, model, error, said):
    def fail(stage, done, total):
        raise error

    with pytest.raises(ConsistI2VError if said else RuntimeError, match="Not enough memory" if said else "Half"):
        render(recipe, image, model=model, on_event=fail)


def test_unknown_options_are_refused(image, tiny_model):
    with pytest.raises(RequestError, match="stepz"):
        consisti2v_cli.animate(image, PROMPT, model=str(tiny_model), stepz=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1.5}, "steps is 1.5"),
        ({"prompt": None}, "prompt is None"),
        ({"size": "64x48"}, "'size'; possible: .*width"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "path or the bytes of a file, not ndarray"),
    ],
)
def test_wrong_kinds_of_values_are_refused_before_the_model_is_loaded(image, tiny_model, options, message, monkeypatch):
    monkeypatch.setattr("consisti2v_cli.render.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RequestError, match=message):
        consisti2v_cli.animate(**{"image": image, "prompt": PROMPT, "model": tiny_model} | options)


def test_a_loaded_model_and_any_option(image, model):
    clip = consisti2v_cli.animate(image, PROMPT, model=model, frames=3, fps=12, sampler="dpm++")
    assert len(clip.frames) == 3
    assert (clip.recipe.fps, clip.recipe.sampler, clip.recipe.steps) == (12, "dpm++", 2)  # steps: the model's own
    assert clip.recipe.model == "tiny"
    other = consisti2v_cli.animate(image, PROMPT, model=model, frames=3, fps=12, sampler="dpm++")
    assert other.recipe.seed != clip.recipe.seed


def test_a_clip_without_metadata(recipe, image, model, tmp_path):
    clip = render(recipe, image, model=model)
    assert read_recipe(clip.save(tmp_path / "bare.gif", metadata=False)) is None
    assert from_json(read_recipe(clip.save(tmp_path / "full.gif"))) == clip.recipe
    with pytest.raises(RequestError, match="exists"):
        clip.save(tmp_path / "full.gif")


def test_bf16_on_a_cpu(recipe, image):
    clip = render(replace(recipe, dtype="bf16"), image)
    assert clip.recipe.dtype == "bf16"
    assert clip.frames.shape == (4, 48, 80, 3)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_there_is(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device() == choose_device("auto") == chosen
    assert choose_device("cpu") == "cpu"
    if not mps:
        with pytest.raises(RequestError, match=f"'mps'.*possible: {'cuda, cpu' if cuda else 'cpu'}"):
            choose_device("mps")


@pytest.mark.parametrize(
    ("check", "dtype"), [("_is_avx512_bf16_supported", "bf16"), ("_is_amx_tile_supported", "bf16")]
)
def test_a_processor_that_computes_with_bf16_does(monkeypatch, recipe, image, model, check, dtype):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert choose_dtype("auto", "cpu") == "fp32"
    monkeypatch.setattr(torch.cpu, check, lambda: True, raising=False)
    assert choose_dtype("auto", "cpu") == dtype
    assert consisti2v_cli.animate(image, PROMPT, seed=1, model=str(model.folder.path)).recipe.dtype == dtype


def test_no_more_threads_than_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("consisti2v_cli.weights.devices.usable_cores", lambda: 1)
    torch.set_num_threads(2)
    use_cores()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_a_step_whose_deep_features_are_used_again_is_near_the_one_that_computes_them(recipe, image, model):
    """Neighbouring steps differ little: using features again changes a clip less than another seed does."""
    many = replace(recipe, steps=20, width=64, height=64)
    plain, again, other = (
        render(changed, image, model=model).latents
        for changed in (many, replace(many, reuse=2), replace(many, seed=many.seed + 1))
    )
    assert 0 < np.abs(again - plain).mean() < 0.5 * np.abs(other - plain).mean()


def test_precisions():
    assert choose_dtype("auto", "cuda:1") == "fp16"
    assert choose_dtype("bf16", "cpu") == "bf16"


def test_torchvision_is_not_needed(tiny_model, image):
    """A broken torchvision beside CPU torch is common; nothing may import it."""
    code = (
        "import sys, consisti2v_cli; sys.modules['torchvision'] = None; "
        "consisti2v_cli.animate(sys.argv[1], 'left', seed=1, model=sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, image, tiny_model], check=True, timeout=120)
