"""The network as the sampler calls it: every memory plan computes the same, and one follows where memory lacks."""

import pytest
import torch

import consisti2v_cli
from consisti2v_cli.denoiser import ClipDenoiser
from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.latents import decode_frames, encode_picture, encode_text
from consisti2v_cli.model import VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE, CHUNKS, PLANS, TILE, MemoryPlan
from consisti2v_cli.weights.load import load_model
from consisti2v_cli.weights.offload import tiles_first

NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.fixture
def model(tiny_model):
    return load_model(tiny_model)


def inputs(model, branches=2, copies=1):
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    c, width = model.unet.config.in_channels, model.unet.config.cross_attention_dim
    return drawn(copies, c, 3, 8, 8), drawn(copies, c, 1, 8, 8), drawn(branches, 16, width)


@torch.no_grad()
def steps(model, branches=2, copies=1, reuse=1, count=3, notice=lambda sentence: None):
    """What a denoiser predicts at some steps."""
    latents, first_frame, text = inputs(model, branches, copies)
    denoiser = ClipDenoiser(model, reuse, notice)
    conditions = denoiser.project_text(text)
    return [
        denoiser(latents * (1 + n / 9), torch.tensor(900 - n), conditions, first_frame=first_frame, frame_stride=3)
        for n in range(count)
    ]


def fail_when(monkeypatch, fails, error):
    """Let the network lack memory as long as `fails` says so of its calls and its feed-forward pieces."""
    real, calls = VideoUNet.forward, []

    def forward(self, latents, *arguments, **options):
        text = arguments[1]
        calls.append((latents.clone(), text[0][0].shape[0]))
        if fails(len(calls), text[0][0].shape[0]):
            raise error
        return real(self, latents, *arguments, **options)

    monkeypatch.setattr(VideoUNet, "forward", forward)
    return calls


@pytest.mark.parametrize(("branches", "copies"), [(2, 1), (3, 3), (1, 1)])
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("reuse", [1, 2])
def test_every_plan_predicts_the_same(tiny_model, plan, branches, copies, reuse):
    expected = steps(load_model(tiny_model), branches, copies, reuse)
    found = steps(load_model(tiny_model, plan=plan), branches, copies, reuse)
    for one, other in zip(expected, found, strict=True):
        assert one.shape == (branches, 6, 3, 8, 8)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_wide_layers_are_cut_and_branches_go_one_by_one(tiny_model, monkeypatch):
    model = load_model(tiny_model, plan=MemoryPlan(feed_forward_chunks=CHUNKS, branches_apart=True))
    calls = fail_when(monkeypatch, lambda count, branches: False, None)
    rows = []
    feed_forward = model.unet.mid_block.attentions[0].transformer_blocks[0].ff
    feed_forward.net.register_forward_hook(lambda module, arguments, output: rows.append(len(output)))
    steps(model, count=1)
    assert [branches for _, branches in calls] == [1, 1]
    assert rows == [1] * 8  # of 4 frames, in each branch


def test_streamed_weights_project_the_text_of_a_second_clip_too(tiny_model):
    model = load_model(tiny_model, plan=PLANS[-1])
    first, second = steps(model), steps(model)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu"])
def test_a_step_that_lacks_memory_is_done_again_in_less(model, tiny_model, monkeypatch, error):
    expected, notices = steps(load_model(tiny_model)), []
    calls = fail_when(monkeypatch, lambda count, branches: count >= 2 and branches > 1, error)
    found = steps(model, notice=notices.append)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    again = [latents for latents, _ in calls[1:5]]  # failed twice, then a branch after the other
    assert all(torch.equal(latents, again[0]) for latents in again)
    assert [branches for _, branches in calls] == [2, 2, 2, 1, 1, 1, 1]
    assert model.plan == MemoryPlan(feed_forward_chunks=CHUNKS, branches_apart=True)
    assert len(notices) == 2
    assert "Not enough memory on cpu" in notices[0]
    assert "one branch of guidance at a time" in notices[1]


def test_features_that_are_used_again_begin_anew_with_a_plan(model, monkeypatch):
    calls = fail_when(monkeypatch, lambda count, branches: count == 2, NO_MEMORY[0])
    found = steps(model, reuse=2, count=4)
    assert len(calls) == 5
    assert all(torch.isfinite(predicted).all() for predicted in found)


def test_other_errors_and_the_last_plan_are_raised(model, monkeypatch):
    fail_when(monkeypatch, lambda count, branches: True, RuntimeError("expected scalar type Half"))
    with pytest.raises(RuntimeError, match="Half"):
        steps(model)
    assert model.plan == ALL_AT_ONCE
    notices = []
    fail_when(monkeypatch, lambda count, branches: True, NO_MEMORY[0])
    with pytest.raises(torch.OutOfMemoryError):
        steps(model, notice=notices.append)
    assert len(notices) == 2


def test_a_clip_goes_on_where_memory_lacked(model, tiny_model, photo, monkeypatch):
    asked = {"image": photo("photo.png"), "prompt": "left", "seed": 7, "steps": 4}
    whole = consisti2v_cli.animate(model=load_model(tiny_model), **asked)
    told, notices = [], []
    fail_when(monkeypatch, lambda count, branches: count >= 3 and branches > 1, NO_MEMORY[0])
    clip = consisti2v_cli.animate(
        model=model, on_event=lambda *event: told.append(event), on_notice=notices.append, **asked
    )
    assert [done for stage, done, _ in told if stage == "steps"] == [0, 1, 2, 3, 4]  # none of them twice
    assert len(notices) == 2
    assert abs(clip.frames.astype(int) - whole.frames).max() <= 1
    assert clip.recipe == whole.recipe
    fail_when(monkeypatch, lambda count, branches: True, NO_MEMORY[0])
    with pytest.raises(ConsistI2VError, match=r"Not enough memory on cpu for 4 frames of 80x48"):
        consisti2v_cli.animate(model=model, **asked)


def test_the_autoencoder_goes_on_in_tiles(model, monkeypatch):
    notices, sizes, real = [], [], model.vae.decoder.forward

    def forward(latent, *arguments):
        sizes.append(tuple(latent.shape[2:]))
        if max(latent.shape[2:]) > TILE // 8:
            raise NO_MEMORY[1]
        return real(latent, *arguments)

    monkeypatch.setattr(model.vae.decoder, "forward", forward)
    latents = torch.randn(1, 6, 1, 72, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        frames = list(decode_frames(model, latents, notices.append))
    assert [frame.shape for frame in frames] == [(576, 640, 3)]
    assert len(sizes) > 2
    assert len(notices) == 1
    assert "tiles" in notices[0]
    assert model.plan == MemoryPlan(tiled=True)
    assert tiles_first(model, 2 * TILE) is None  # what else there is on a CPU is for the network
    model.plan, model.device = MemoryPlan(), torch.device("cuda")
    assert tiles_first(model, 2 * TILE) == MemoryPlan(tiled=True)
    assert tiles_first(model, TILE) == MemoryPlan(parts_apart=True)  # one tile would be the whole
    model.plan = PLANS[1]
    assert tiles_first(model, TILE) == MemoryPlan(parts_apart=True, streamed=True)


@torch.no_grad()
def test_guests_wait_elsewhere_but_while_they_work(tiny_model, photo, monkeypatch):
    """What a graphics card would see: here both places are the CPU, so the calls are counted."""
    model, moves = load_model(tiny_model, plan=MemoryPlan(parts_apart=True)), []
    for part in ("text_encoder", "vae"):
        module = getattr(model, part)
        monkeypatch.setattr(module, "to", lambda place, part=part, module=module: moves.append((part, place)) or module)
    encode_text(model, "left", pytest.fail)
    assert moves == [("text_encoder", model.device), ("text_encoder", "cpu")]
    moves.clear()
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    latent = encode_picture(model, picture)
    frames = decode_frames(model, latent.repeat(1, 1, 3, 1, 1))
    next(frames)
    assert moves == [("vae", model.device), ("vae", "cpu"), ("vae", model.device)]
    list(frames)
    assert moves[-1] == ("vae", "cpu")
    assert moves.count(("vae", "cpu")) == 2
