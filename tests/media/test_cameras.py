"""Videos as phones and cameras make them: HDR, square or other pixels, interlaced, timed unevenly, with alpha."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from moving_photos import FIXTURES, psnr
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.image import fit_image, read_image
from consisti2v_cli.media.probe import exact_rate, parse_banner, probe_stream
from consisti2v_cli.media.video import (
    kind_of,
    probe,
    read_frames,
    read_last_frame,
    read_timing,
    read_video,
    write_video,
)

BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]


def ffmpeg(*arguments, **settings):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, **settings)


def encode(path, frames, *options, fps=8):
    """Write frames `f h w 3` or `f h w 4` by ffmpeg: encode(path, frames, "-c:v", "libx264")."""
    frames = np.ascontiguousarray(frames)
    _, height, width, channels = frames.shape
    pixels = "rgba" if channels == 4 else "rgb24"
    raw = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-r", fps, "-i", "-"]
    ffmpeg(*raw, *options, path, input=frames.tobytes())
    return path


def bars(height=48, width=128):
    """Saturated colour bars, `height width 3`."""
    return np.repeat(np.array(BARS, np.uint8), width // len(BARS), 0)[None].repeat(height, 0)


def middles(frame):
    """The colours in the middle of the bars."""
    step = frame.shape[1] // len(BARS)
    return frame[frame.shape[0] // 2, step // 2 :: step].astype(int)


@pytest.fixture(scope="module")
def sdr():
    """A photo, and patches with a ramp of grey: `2 128 192 3`."""
    photo = fit_image(read_image(FIXTURES / "coffee.jpg"), 192, 128)
    colours = [(220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30), (200, 100, 60), (60, 140, 200)]
    patches = np.repeat(np.array(colours, np.uint8), 32, 0)[None].repeat(128, 0)
    patches[64:] = np.linspace(0, 255, 192).astype(np.uint8)[None, :, None]
    return np.stack([photo, patches])


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_comes_out_in_its_sdr_colours(tmp_path, sdr, transfer):
    """SDR in an HDR video: its white at 203 nits, as ITU-R BT.2408 has it."""
    target = f"zscale=matrixin=gbr:rangein=full:transferin=bt709:primariesin=bt709:transfer={transfer}"
    colours = f"format=gbrp,{target}:primaries=bt2020:matrix=bt2020nc:range=limited:npl=203,format=yuv420p10le"
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    path = encode(tmp_path / "hdr.mp4", sdr, "-vf", colours, "-c:v", "libx265", "-crf", "4", "-x265-params", tags)
    read, rate = read_video(path)
    plain = ffmpeg("-i", path, "-vf", "scale,format=rgb24", "-f", "rawvideo", "-").stdout
    plain = np.frombuffer(plain, np.uint8).reshape(sdr.shape)
    assert rate == 8
    for shown, unmapped, original in zip(read, plain, sdr, strict=True):
        assert psnr(shown, original) > 25
        assert psnr(shown, original) > psnr(unmapped, original) + 5
    assert np.abs(read[1][32, 16::32].astype(int) - sdr[1][32, 16::32]).max() < 4
    assert np.array_equal(read_last_frame(path), read[-1])


@pytest.mark.parametrize(
    ("sar", "size", "shown"),
    [("2/1", (80, 96), (160, 96)), ("1/2", (96, 80), (96, 160)), ("16/15", (72, 58), (77, 58))],
)
def test_pixels_that_are_not_square(tmp_path, sar, size, shown):
    path = encode(
        tmp_path / "dv.mp4", np.zeros((2, size[1], size[0], 3), np.uint8), "-vf", f"setsar={sar}", "-crf", "1"
    )
    header = probe(path)
    assert (header.width, header.height) == shown
    assert read_last_frame(path).shape == (shown[1], shown[0], 3)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", path, "-c", "copy", turned)
    header = probe(turned)
    assert (header.width, header.height) == shown[::-1]
    assert read_last_frame(turned).shape == (shown[0], shown[1], 3)


def test_rotation_turns_pictures_as_players_do(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = (255, 0, 0)
    path = encode(tmp_path / "flat.mp4", picture[None], "-crf", "1", "-pix_fmt", "yuv444p")
    for turn in (90, 180, 270):
        ffmpeg("-display_rotation", turn, "-i", path, "-c", "copy", tmp_path / "turned.mp4")
        expected = np.rot90(picture, turn // 90).astype(int)
        assert np.abs(read_last_frame(tmp_path / "turned.mp4") - expected).mean() < 3


def test_interlaced_video_is_deinterlaced(tmp_path):
    """A bar that moves between two fields: their lines must not stand beside each other."""
    frames = np.zeros((8, 64, 96, 3), np.uint8)
    for number in range(8):
        for field in (0, 1):
            left = 8 * (2 * number + field)
            frames[number, field::2, left : left + 8] = 255
    options = ["-vf", "setfield=tff", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "1"]
    path = encode(tmp_path / "tape.mpg", frames, *options, fps=25)
    read = list(read_frames(path))
    combs = [np.abs(np.diff(frame[8:-8].astype(int), axis=0)).mean() for frame in read[2:6]]
    assert len(read) in (8, 9)  # MPEG-2 knows no 25 / 2 frames, and may repeat one
    assert np.abs(np.diff(frames[3].astype(int), axis=0)).mean() > 30
    assert max(combs) < 10


def test_times_of_frames(tmp_path):
    """8 frames at 8 a second, then 8 at 2; whatever the file's own clock begins with."""
    frames = np.stack([np.full((32, 32, 3), 15 * number, np.uint8) for number in range(16)])
    times = "setpts='if(lt(N,8),N/8,1+(N-8)/2)/TB'"
    expected = [number / 8 for number in range(8)] + [1 + number / 2 for number in range(8)]
    for name, more in {"a.mp4": [], "b.mkv": [], "c.mp4": ["-bf", "2"], "d.mp4": ["-output_ts_offset", "3"]}.items():
        path = encode(tmp_path / name, frames, "-vf", times, "-fps_mode", "vfr", "-enc_time_base", "1/1000", *more)
        timing = read_timing(path)
        assert np.allclose(timing.starts, expected, atol=0.002), name
        assert len(list(read_frames(path))) == 16


@pytest.mark.parametrize("format", ["gif", "webp", "png", "avif"])
def test_times_of_animated_pictures(tmp_path, format):
    pictures = [Image.new("RGB", (16, 16), (60 * number, 0, 0)) for number in range(4)]
    path = tmp_path / f"a.{format}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 300, 50, 500])
    assert np.allclose(read_timing(path).starts, [0, 0.1, 0.4, 0.45])
    assert probe(path).fps == pytest.approx(4 / 0.95)
    assert abs(int(read_last_frame(path)[0, 0, 0]) - 180) < 8


@pytest.mark.parametrize("format", ["mp4", "mov", "webm"])
def test_colours_come_back_as_they_were_written(tmp_path, format):
    """Saturated bars: what differs is the codec's rounding."""
    path = write_video(tmp_path / f"bars.{format}", bars()[None].repeat(3, 0), 8, quality=100)
    for frame in read_frames(path):
        assert np.abs(middles(frame) - BARS).max() < 4


@pytest.mark.parametrize(
    ("size", "matrix", "how"),
    [
        ((128, 48), "bt601", ["-colorspace", "smpte170m", "-color_range", "tv"]),
        ((128, 48), "bt709", ["-colorspace", "bt709", "-color_range", "tv"]),
        ((128, 48), "bt709", ["-colorspace", "bt709", "-color_range", "pc"]),
        ((128, 48), "bt601", []),
        ((1280, 720), "bt709", []),
    ],
)
def test_colours_of_other_programs(tmp_path, size, matrix, how):
    """Tagged, and untagged: then HD is BT.709 and the rest BT.601."""
    full = "pc" in how
    convert = f"scale=out_color_matrix={matrix}:out_range={'pc' if full else 'tv'}:flags=accurate_rnd,format=yuv444p"
    untag = "setparams=colorspace=unknown:range=unknown" if not how else "null"
    path = tmp_path / "bars.mp4"
    encode(path, bars(size[1], size[0])[None], "-vf", f"{convert},{untag}", "-c:v", "libx264", "-qp", "2", *how)
    stream = probe_stream(path)
    assert bool(stream.matrix) is bool(how)
    assert np.abs(middles(read_last_frame(path)) - BARS).max() < 5


CLEAR = {  # ways to keep a picture with alpha
    "a.webp": None,
    "a.png": None,
    "a.avif": None,
    "a.gif": None,
    "a.mov": ["-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"],
    "a.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"],
}


@pytest.mark.parametrize("name", CLEAR)
def test_transparent_frames_lie_over_the_background(tmp_path, name):
    """The left half is red, the right half clear, with blue under it."""
    picture = np.zeros((32, 64, 4), np.uint8)
    picture[:, :32] = (255, 0, 0, 255)
    picture[:, 32:] = (0, 0, 255, 0)
    frames = np.stack([picture] * 3)
    frames[0, :16] = (0, 0, 0, 255)
    if CLEAR[name] is None:
        first, *rest = map(Image.fromarray, frames)
        options = {"a.webp": {"lossless": True}, "a.png": {"disposal": 1, "blend": 0}, "a.gif": {"disposal": 2}}
        first.save(tmp_path / name, save_all=True, append_images=rest, duration=125, **options.get(name, {}))
    else:
        encode(tmp_path / name, frames, *CLEAR[name])
    for frame in (
        read_last_frame(tmp_path / name, background="lime"),
        [*read_frames(tmp_path / name, background="lime")][-1],
    ):
        assert np.abs(frame[16, 8].astype(int) - (255, 0, 0)).max() < 12
        assert np.abs(frame[16, 56].astype(int) - (0, 255, 0)).max() < 12


def test_sound_alone_covers_and_one_frame(tmp_path):
    sine = ["-f", "lavfi", "-i", "sine=d=1"]
    ffmpeg(*sine, tmp_path / "sound.m4a")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cover.jpg")
    ffmpeg("-i", tmp_path / "sound.m4a", "-i", tmp_path / "cover.jpg", "-map", "0", "-map", "1", "-c", "copy",
           "-disposition:v:0", "attached_pic", tmp_path / "album.m4a")  # fmt: skip
    for name in ("sound.m4a", "album.m4a"):
        with pytest.raises(RequestError, match=f"{name} is neither a picture nor a film"):
            kind_of(tmp_path / name)
    film = encode(tmp_path / "one.mp4", np.zeros((1, 32, 32, 3), np.uint8))
    ffmpeg("-i", film, "-i", tmp_path / "cover.jpg", "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1",
           "attached_pic", tmp_path / "covered.mp4")  # fmt: skip
    assert kind_of(tmp_path / "covered.mp4") == "film"
    assert read_last_frame(tmp_path / "covered.mp4").mean() < 3
    assert len(read_timing(film).starts) == 1


def test_what_ffmpeg_says_of_a_stream():
    line = "  Stream #0:1[0x2](eng): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, progressive), 3840x2160 [SAR 1:1 DAR 16:9], 50 kb/s, 59.94 fps, 60 tbr, 600 tbn (default)"  # noqa: E501
    turned = "      Display Matrix: rotation of -90.00 degrees"
    sounds = ["  Stream #0:2: Audio: pcm_s16le, 48000 Hz", "  Stream #0:3: Audio: aac (LC), 48000 Hz (default)"]
    stream = parse_banner("\n".join(["Input #0, mov,mp4, from 'a.mov':", line, turned, *sounds]))
    assert (stream.codec, stream.transfer, stream.matrix) == ("hevc", "arib-std-b67", "bt2020nc")
    assert (stream.size, stream.is_hdr, stream.progressive) == ((2160, 3840), True, True)
    assert stream.fps == 60000 / 1001
    assert (stream.sound.codec, stream.sound.number) == ("aac", 1)
    assert parse_banner("Input #0, tty, from 'a.txt':\n" + line) is None
    assert parse_banner("") is None
    assert (exact_rate(25), exact_rate(29.97), exact_rate(23.98)) == (25, 30000 / 1001, 24000 / 1001)
