"""What is asked of a scene: for every prompt a question with its input, a text or a region, and the one right answer.

Which thing is asked about is chance, but the scene's own: the same scene and prompt always give the same question. A
text names only what can be told apart, and a region is a thing's box, held as loosely as a person draws one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vision_server.tasks import TASKS, of_token, sentence
from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import Box, Item, Scene, Sign
from vision_server.training.truth import (
    NO_TEXT,
    NUMBERS,
    TOKENS,
    kinds,
    label,
    listed,
    locations,
    look,
    outline,
    place,
    plural,
    things,
    truth,
)

LOOSE: Final = 0.04  # how far a region's edges may be off, as a share of the box
NO_SIGN: Final = "no sign"

_Asked = tuple[str, Box | None, str]  # text, region, truth


@dataclass(frozen=True)
class Question:
    """`token`, `text` and `region` (pixels) are what a person sends; `truth` is what the model is to generate."""

    token: str
    text: str
    region: Box | None
    truth: str

    def sentence(self, size_px: int) -> str:
        """What the model is sent, for a square picture of this side."""
        return sentence(of_token(self.token), self.text, self.region, (size_px, size_px))


def ask(scene: Scene, token: str) -> Question:
    """The question of this scene for the prompt `token`, one of PROMPTS; KeyError for any other."""
    if token in TOKENS:
        return Question(token, "", None, truth(scene, token))
    return Question(token, *_QUESTIONS[token](scene, random.Random(f"{scene.seed} {token}")))


def _named(scene: Scene, rng: random.Random, *, fully: bool) -> tuple[str, Item | Sign]:
    """A thing and words that mean it alone: its kind, or `fully` colour and kind; the leftmost where none is unlike."""
    shown = things(scene)
    for words in (look, label) if fully else (label, look):
        counts = Counter(map(words, shown))
        alone = [thing for thing in shown if counts[words(thing)] == 1]
        if alone:
            chosen = rng.choice(alone)
            return words(chosen), chosen
    return f"leftmost {look(shown[0])}", shown[0]


def _region(thing: Item | Sign, scene: Scene, rng: random.Random) -> Box:
    x1, y1, x2, y2 = thing.box
    across, down = LOOSE * (x2 - x1), LOOSE * (y2 - y1)
    loose = (value + rng.uniform(-reach, reach) for value, reach in zip(thing.box, (across, down) * 2, strict=True))
    a, b, c, d = (round(min(max(value, 0.0), float(scene.size_px)), 1) for value in loose)
    return a, b, c, d


def _size_and_look(thing: Item | Sign) -> str:
    return f"{thing.size} {look(thing)}" if isinstance(thing, Item) else look(thing)


def _phrases(scene: Scene, rng: random.Random) -> _Asked:
    names = sorted({label(thing) for thing in things(scene)})
    chosen = set(rng.sample(names, rng.randint(1, len(names))))
    shown = [thing for thing in things(scene) if label(thing) in chosen]
    phrases = kinds(shown)
    ground = f" on a {scene.background.split()[0]} background" if rng.random() < 0.5 else ""
    said = ""
    for name, phrase in zip(dict.fromkeys(map(label, shown)), phrases, strict=True):
        said += phrase + "".join(locations(one.box, scene.size_px) for one in shown if label(one) == name)
    return listed(phrases) + ground, None, said


def _mask(scene: Scene, rng: random.Random) -> _Asked:
    words, thing = _named(scene, rng, fully=True)
    return words, None, locations(outline(thing), scene.size_px)


def _wanted(scene: Scene, rng: random.Random) -> _Asked:
    words = rng.choice((label, look))
    chosen = words(rng.choice(things(scene)))
    found = (thing for thing in things(scene) if words(thing) == chosen)
    return chosen, None, "".join(chosen + locations(thing.box, scene.size_px) for thing in found)


def _mask_in_region(scene: Scene, rng: random.Random) -> _Asked:
    thing = rng.choice(things(scene))
    return "", _region(thing, scene, rng), locations(outline(thing), scene.size_px)


def _category(scene: Scene, rng: random.Random) -> _Asked:
    thing = rng.choice(things(scene))
    return "", _region(thing, scene, rng), label(thing)


def _description(scene: Scene, rng: random.Random) -> _Asked:
    thing = rng.choice(things(scene))
    return "", _region(thing, scene, rng), _size_and_look(thing)


def _text_in_region(scene: Scene, rng: random.Random) -> _Asked:
    thing = scene.sign if scene.sign is not None and rng.random() < 0.7 else rng.choice(things(scene))
    return "", _region(thing, scene, rng), thing.text if isinstance(thing, Sign) else NO_TEXT


def _told(scene: Scene, rng: random.Random) -> _Asked:
    words, thing = _named(scene, rng, fully=False)
    return words, None, f"{_size_and_look(thing)}, {place(thing, scene.size_px)}"


def _answered(scene: Scene, rng: random.Random) -> _Asked:
    shown = things(scene)
    words, thing = _named(scene, rng, fully=False)
    kind = label(rng.choice(shown)) if rng.random() < 0.5 else rng.choice(KINDS)
    count = sum(label(one) == kind for one in shown)
    asked = [
        ("How many things are there?", NUMBERS[len(shown)]),
        ("What is the background?", scene.background),
        (f"Is there {'an' if kind[0] in 'aeiou' else 'a'} {kind}?", "yes" if count else "no"),
        (f"How many {plural(kind)} are there?", NUMBERS[count]),
        (f"Where is the {words}?", place(thing, scene.size_px)),
    ]
    if words == label(thing):
        asked.append((f"What colour is the {words}?", thing.colour))
    text, said = rng.choice(asked)
    return text, None, said


def _read(scene: Scene, rng: random.Random) -> _Asked:
    sign = scene.sign
    text, said = rng.choice(
        [
            ("What does the sign say?", sign.text if sign else NO_SIGN),
            ("What is the first letter?", sign.text[0] if sign else NO_SIGN),
            ("How many letters are there?", NUMBERS[len(sign.text)] if sign else NO_SIGN),
            ("What colour is the sign?", sign.colour if sign else NO_SIGN),
        ]
    )
    return text, None, said


_QUESTIONS: Final[dict[str, Callable[[Scene, random.Random], _Asked]]] = {
    "<CAPTION_TO_PHRASE_GROUNDING>": _phrases,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _mask,
    "<REGION_TO_SEGMENTATION>": _mask_in_region,
    "<OPEN_VOCABULARY_DETECTION>": _wanted,
    "<REGION_TO_CATEGORY>": _category,
    "<REGION_TO_DESCRIPTION>": _description,
    "<REGION_TO_OCR>": _text_in_region,
    "<VQA>": _answered,
    "<DocVQA>": _read,
    "<DESCRIPTION>": _told,
}
PROMPTS: Final = tuple(task.token for task in TASKS)
