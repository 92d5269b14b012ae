"""Collect the photos that the bundled model is trained on, and the held-out ones that judge it.

    pip install scikit-image imageio-ffmpeg pillow
    apt-get install opencv-doc lomiri-wallpapers-16.04        # on Debian
    python tests/benchmarks/collect_photos.py OUT_DIR [--fixtures tests/fixtures]

Writes ``OUT_DIR/train/*.jpg``, ``OUT_DIR/heldout/*.png`` and ``OUT_DIR/heldout.txt``. The sources, all free to
redistribute: the pictures in scikit-image's wheel, the samples of Debian's ``opencv-doc`` package, photos of its
``lomiri-wallpapers-16.04`` (CC-BY 4.0 or CC0, authors in their names) and Big Buck Bunny ((c) 2008 Blender Foundation,
CC-BY 3.0), which the source distribution of moviepy 2.2.1 carries and pip downloads.

Which photos are held out is decided by a fixed rule and not by looking: the colour photos of scikit-image and OpenCV
are ordered by the SHA-256 of their names, and the first 20 are held out. ``--fixtures`` writes the small files of
``tests/fixtures`` as well.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

OPENCV_DOC = Path("/usr/share/doc/opencv-doc")
HELD_OUT = 20  # photos that no training sees
FIXTURE_PHOTOS = 16  # of these, the first ones are kept in the repository as small JPEGs
TRAIN_SHORT_SIDE, HELD_OUT_SHORT_SIDE, FIXTURE_SHORT_SIDE = 480, 512, 288
FILM_SECONDS_A_FRAME = 1.5
FILM_CREDITS = (487.0, 580.0)  # seconds, start and end; what follows the credits is a scene again
FILM_END = 595.0

# Colour photographs, one a scene (of stereo pairs and sequences only one picture), by source.
SKIMAGE_COLOUR = ("astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg")
SKIMAGE_GREY = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "moon.png")  # for training only
OPENCV_COLOUR = (
    "examples/alphamat/input_images/plant.jpg",
    *(
        f"examples/data/{name}"
        for name in (
            "aero1.jpg",
            "aloeL.jpg",
            "apple.jpg",
            "baboon.jpg",
            "board.jpg",
            "building.jpg",
            "butterfly.jpg",
            "chicky_512.png",
            "ela_original.jpg",
            "fruits.jpg",
            "graf1.png",
            "home.jpg",
            "left.jpg",
            "leuvenA.jpg",
            "licenseplate_motion.jpg",
            "orange.jpg",
            "rubberwhale1.png",
            "squirrel_cls.jpg",
            "starry_night.jpg",
            "stuff.jpg",
        )
    ),
    "examples/dnn_superres/butterfly.png",
    *(f"examples/hfs/data/00{number}.jpg" for number in range(3)),
    "examples/reg/home.png",
    *(f"examples/text/scenetext0{number}.jpg" for number in (1, 3, 4, 5, 6)),
    *(f"examples/text/scenetext_segmented_word0{number}.jpg" for number in (1, 2, 4)),
    *(
        f"opencv4/html/{name}"
        for name in (
            "4_barcodes.jpg",
            "Histogram_Calculation_Original_Image.jpg",
            "Hough_Lines_Tutorial_Original_Image.jpg",
            "Laplace_Operator_Tutorial_Original_Image.jpg",
            "Morphology_1_Tutorial_Original_Image.jpg",
            "astra_color.jpg",
            "bicubicOutput.jpg",
            "fusion.png",
            "fusion_mertens.jpg",
            "pexels_double_decker_bus.jpg",
            "space_shuttle.jpg",
            "studentsSample_input.jpg",
        )
    ),
)
OPENCV_VIDEOS = {  # and the seconds between two frames that are taken
    "examples/data/vtest.avi": 6.0,
    "examples/data/tree.avi": 3.0,
    "opencv4/html/box.mp4": 3.0,
    "opencv4/html/cup.mp4": 2.0,
}
WALLPAPERS = Path("/usr/share/backgrounds")  # of Debian's lomiri-wallpapers-16.04
LOMIRI = (  # photos by their authors, each under CC-BY-4.0 but for the dandelions, which are CC0
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "friends_by_Aitzol_Berasategi",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
    "umang_by_Abhishek_Mudgal",
)
CUTS = (1, 2, 3)  # large photos are kept whole, and cut into so many rows and columns
# The two photos of tests/fixtures, which are used in no training.
BOAT, BOAT_CROP = "opencv4/html/boat.jpg", (8, 18, 292, 231)  # left, top, right, bottom
COFFEE = "coffee.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train/, heldout/ and heldout.txt to")
    parser.add_argument("--fixtures", type=Path, help="write the photos of tests/fixtures to this folder too")
    parser.add_argument("--moviepy", type=Path, help="moviepy-2.2.1.tar.gz, if it is already downloaded")
    options = parser.parse_args()
    train, held_out = options.out / "train", options.out / "heldout"
    for folder in (train, held_out):
        folder.mkdir(parents=True, exist_ok=True)
    photos = colour_photos()
    order = sorted(photos, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for name in order[:HELD_OUT]:
        shrink(photos[name], HELD_OUT_SHORT_SIDE).save(held_out / f"{name}.png")
    (options.out / "heldout.txt").write_text("".join(f"{name}.png\n" for name in order[:HELD_OUT]))
    for name in order[HELD_OUT:]:
        save_jpeg(photos[name], train / f"{name}.jpg")
    for file in SKIMAGE_GREY:
        save_jpeg(open_image(skimage_data() / file), train / f"skimage-{Path(file).stem}.jpg")
    for file, seconds in OPENCV_VIDEOS.items():
        for number, frame in enumerate(opencv_video_frames(file, seconds)):
            save_jpeg(frame, train / f"opencv-{Path(file).stem}-{number:03d}.jpg")
    for name in LOMIRI:
        for number, part in enumerate(parts(open_wallpaper(name))):
            save_jpeg(part, train / f"lomiri-{name.partition('_by_')[0]}-{number:03d}.jpg")
    for number, frame in enumerate(film_frames(options.moviepy)):
        save_jpeg(frame, train / f"bunny-{number:03d}.jpg")
    if options.fixtures:
        write_fixtures(options.fixtures, [(name, photos[name]) for name in order[:FIXTURE_PHOTOS]])
    print(f"{len(list(train.glob('*.jpg')))} photos for training, {HELD_OUT} held out, in {options.out}")


def colour_photos() -> dict[str, Image.Image]:
    """Every colour photograph, by a name that tells its source."""
    found = {f"skimage-{Path(file).stem}": open_image(skimage_data() / file) for file in SKIMAGE_COLOUR}
    for file in OPENCV_COLOUR:
        stem = file.replace("examples/", "").replace("opencv4/html/", "").rpartition(".")[0]
        found["opencv-" + stem.replace("data/", "").replace("/", "-")] = open_image(opencv_doc() / file)
    return found


def skimage_data() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("scikit-image is not installed: pip install scikit-image")
    return Path(spec.origin).parent / "data"


def opencv_doc() -> Path:
    if not OPENCV_DOC.is_dir():
        sys.exit(f"{OPENCV_DOC} is missing: on Debian or Ubuntu, apt-get install opencv-doc")
    return OPENCV_DOC


def open_image(path: Path) -> Image.Image:
    """The picture at `path`, or at `path`.gz as Debian packs some of them."""
    packed = path.with_name(path.name + ".gz")
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return Image.open(io.BytesIO(data)).convert("RGB")


def open_wallpaper(name: str) -> Image.Image:
    path = WALLPAPERS / f"{name}.jpg"
    if not path.is_file():
        sys.exit(f"{path} is missing: on Debian, apt-get install lomiri-wallpapers-16.04")
    return open_image(path)


def parts(image: Image.Image) -> Iterator[Image.Image]:
    """A large photo whole, and what it shows from nearer."""
    for cut in CUTS:
        width, height = image.width / cut, image.height / cut
        for row in range(cut):
            for column in range(cut):
                left, top = column * width, row * height
                yield image.crop((round(left), round(top), round(left + width), round(top + height)))


def opencv_video_frames(file: str, seconds: float) -> list[Image.Image]:
    path = opencv_doc() / file
    packed = path.with_name(path.name + ".gz")
    if not packed.exists():
        return list(distinct(video_frames(path, seconds)))
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder, path.name)
        unpacked.write_bytes(gzip.decompress(packed.read_bytes()))
        return list(distinct(video_frames(unpacked, seconds)))


def film_frames(archive: Path | None) -> list[Image.Image]:
    """Frames of Big Buck Bunny, without its credits and without what differs little from the frame before."""
    with tempfile.TemporaryDirectory() as folder:
        frames = list(video_frames(unpack_film(Path(folder), archive), FILM_SECONDS_A_FRAME))
    seconds = [number * FILM_SECONDS_A_FRAME for number in range(len(frames))]
    credits_from, credits_to = FILM_CREDITS
    story = (f for f, s in zip(frames, seconds, strict=True) if s < credits_from or credits_to < s < FILM_END)
    return list(distinct(story))


def unpack_film(folder: Path, archive: Path | None) -> Path:
    """Big Buck Bunny, written into a folder."""
    film = folder / "bbb.mp4"
    with tarfile.open(archive or download_moviepy(folder)) as source:
        member = next(item for item in source if item.name.endswith("/moviepy_10_minutes.zip"))
        packed = source.extractfile(member)
        assert packed is not None
        film.write_bytes(zipfile.ZipFile(io.BytesIO(packed.read())).read("moviepy_10_minutes/resources/bbb.mp4"))
    return film


def download_moviepy(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["moviepy==2.2.1", "--dest", str(folder)]
    # pip asks the package for its metadata, which needs setuptools: take the one that is installed, if there is one
    if subprocess.run([*command, "--no-build-isolation"], check=False).returncode != 0:
        subprocess.run(command, check=True)
    return next(folder.glob("moviepy-2.2.1.tar.gz"))


def video_frames(path: Path, seconds: float, height: int = 288) -> Iterator[Image.Image]:
    """One frame every `seconds`, scaled to `height`."""
    with tempfile.TemporaryDirectory() as folder:
        picture = f"fps=1/{seconds},scale=-2:'min({height},ih)':flags=lanczos"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(path)]
        subprocess.run([*command, "-vf", picture, str(Path(folder, "%05d.png"))], check=True)
        for file in sorted(Path(folder).glob("*.png")):
            yield Image.open(file).convert("RGB")


def distinct(frames: Iterator[Image.Image], brightness: float = 14, difference: float = 7) -> Iterator[Image.Image]:
    """Leave out what is nearly black, or differs from the last picture kept by less than `difference` of 255."""
    last = np.full((18, 32), -255.0)
    for frame in frames:
        small = np.asarray(frame.convert("L").resize((32, 18), Image.Resampling.BOX), dtype=float)
        if small.mean() >= brightness and np.abs(small - last).mean() >= difference:
            last = small
            yield frame


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def save_jpeg(image: Image.Image, path: Path) -> None:
    shrink(image, TRAIN_SHORT_SIDE).save(path, quality=95, subsampling=0)


def write_fixtures(folder: Path, held_out: list[tuple[str, Image.Image]]) -> None:
    (folder / "heldout").mkdir(parents=True, exist_ok=True)
    boat = open_image(opencv_doc() / BOAT).crop(BOAT_CROP).resize((640, 480), Image.Resampling.LANCZOS)
    boat.save(folder / "boat.jpg", quality=90)
    open_image(skimage_data() / COFFEE).save(folder / "coffee.jpg", quality=90)
    for name, photo in held_out:
        shrink(photo, FIXTURE_SHORT_SIDE).save(folder / "heldout" / f"{name}.jpg", quality=82)


if __name__ == "__main__":
    main()
