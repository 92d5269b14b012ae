"""The paper's measures of single clips (section 5.2, appendix C), and stand-ins for two of them under their own names.

Motion smoothness is not among them: its network, AMT, is for non-commercial use only.
"""

from __future__ import annotations

import numpy as np

from . import metrics
from .extractors import Clip, Frames
from .measures import LastingError, Measure, Scores, Subject, Way
from .quick import DYNAMIC, FLICKERING, note_consistency, note_motion

MIDDLE = 16  # frames that are looked at for objects and scenes

DYNAMIC_RAFT = Measure(
    "dynamic_raft",
    "dynamic degree (RAFT)",
    "",
    "whether enough happens; a folder's value is the share of clips that move",
)
MOTION_RAFT = Measure(
    "motion_raft",
    "motion, px (RAFT)",
    "",
    "mean length of the 5 % strongest flow vectors, median over pairs of frames about an eighth of a second apart",
    scale=1,
    digits=1,
)
SUBJECT = Measure(
    "subject_dino",
    "subject (DINO B/16)",
    "higher",
    "how much what is seen stays itself, against the neighbour and the first frame; a still picture has 100",
    beside=(DYNAMIC_RAFT.key, DYNAMIC.key),
)
BACKGROUND = Measure(
    "background_clip",
    "background (CLIP B/32)",
    "higher",
    "how much the scene stays itself, against the neighbour and the first frame; a still picture has 100",
    beside=(DYNAMIC_RAFT.key, DYNAMIC.key),
)
OBJECT = Measure(
    "object_owlv2",
    "object (OWLv2, presence)",
    "higher",
    "in how many of 16 frames the wanted object is seen; it is named in a file of words",
    stands_in=True,
)
SCENE = Measure(
    "scene_blip",
    "scene (BLIP caption)",
    "higher",
    "in how many of 16 frames' captions all words of the wanted scene stand; they are named in a file of words",
    stands_in=True,
)
OVERALL = Measure(
    "overall_viclip",
    "overall (ViCLIP-L/14)",
    "higher",
    "how much the clip is what the prompt says: a cosine, of which about 20 is much",
)
I2V_SUBJECT = Measure(
    "i2v_subject_dino",
    "photo kept (DINO B/16)",
    "higher",
    "VBench-I2V's i2v_subject: nearness of frames to the photo and to each other; a still picture has 100",
    beside=(DYNAMIC_RAFT.key, DYNAMIC.key),
)
I2V_LAST = Measure(
    "i2v_last_dino",
    "last frame (DINO B/16)",
    "higher",
    "how near the last frame is to the photo: what drift costs",
    beside=(DYNAMIC_RAFT.key, DYNAMIC.key),
)
CLIPSIM = Measure(
    "clipsim",
    "CLIPSIM (CLIP B/32)",
    "higher",
    "how much each frame is what the prompt says: a cosine, of which 30 is much",
)

PAPER = (  # in the order of Table 2, and more
    *(FLICKERING, DYNAMIC_RAFT, MOTION_RAFT, BACKGROUND, SUBJECT, OBJECT, SCENE, OVERALL),
    *(I2V_SUBJECT, I2V_LAST, CLIPSIM),
)


def _motion(subject: Subject, scores: Scores) -> None:
    footage = subject.footage.every(metrics.frame_step(subject.footage.fps))
    flows = subject.network("raft-things")(footage.frames)
    note_motion(scores, footage, flows, (MOTION_RAFT, DYNAMIC_RAFT), "motion_raft")


def _subject(subject: Subject, scores: Scores) -> None:
    note_consistency(subject, scores, SUBJECT, "dino-b16", "subject")


def _background(subject: Subject, scores: Scores) -> None:
    note_consistency(subject, scores, BACKGROUND, "clip-b32", "background")


def _photo(subject: Subject, scores: Scores) -> None:
    subject.clip.photo()  # without which the frames need not be read
    frames = subject.footage.frames
    photo = subject.clip.first_picture(*subject.footage.size)
    features = subject.network("dino-b16").beside_a_photo(np.concatenate([photo[None], frames]))
    found = metrics.image_consistency(features[0], features[1:])
    scores.values[I2V_SUBJECT.key] = found["score"]
    scores.values[I2V_LAST.key] = found["last"]
    scores.series["photo"] = (metrics.unit(features[1:]) @ metrics.unit(features[0])).tolist()


def _clipsim(subject: Subject, scores: Scores) -> None:
    prompt = subject.prompt
    network: Clip = subject.network("clip-b32")
    scores.values[CLIPSIM.key] = metrics.clipsim(network.beside_words(subject.footage.frames), network.words(prompt))


def _overall(subject: Subject, scores: Scores) -> None:
    prompt = subject.prompt
    network = subject.network("viclip-l14")
    clip, words = metrics.unit(network(subject.footage.frames)), metrics.unit(network.words(prompt))
    scores.values[OVERALL.key] = float(clip @ words)


def _object(subject: Subject, scores: Scores) -> None:
    wanted = _word(subject, "object")
    seen = subject.network("owlv2-base")(_middle(subject), wanted)
    scores.values[OBJECT.key] = float(np.mean(seen))


def _scene(subject: Subject, scores: Scores) -> None:
    wanted = set(_word(subject, "scene").lower().split())
    captions = subject.network("blip-base")(_middle(subject))
    scores.values[SCENE.key] = float(np.mean([wanted <= set(caption.lower().split()) for caption in captions]))


def _middle(subject: Subject) -> Frames:
    frames = subject.footage.frames
    return frames[metrics.middle_frames(MIDDLE, len(frames))]


def _word(subject: Subject, kind: str) -> str:
    word = subject.words.get(kind, "").strip()
    if not word:
        raise LastingError(f"no {kind} is named for it")
    return word


PAPER_WAYS = (
    Way(_motion, (DYNAMIC_RAFT, MOTION_RAFT), network="raft-things", series=("motion_raft",)),
    Way(_subject, (SUBJECT,), network="dino-b16", series=("subject",)),
    Way(_background, (BACKGROUND,), network="clip-b32", series=("background",)),
    Way(_photo, (I2V_SUBJECT, I2V_LAST), network="dino-b16", series=("photo",)),
    Way(_clipsim, (CLIPSIM,), network="clip-b32"),
    Way(_overall, (OVERALL,), network="viclip-l14"),
    Way(_object, (OBJECT,), network="owlv2-base", word="object"),
    Way(_scene, (SCENE,), network="blip-base", word="scene"),
)
