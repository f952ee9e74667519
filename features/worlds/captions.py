"""Captions of moving shapes: what they say, in which words, and which videos they really fit.

A caption mentions a random subset of what is there. `Speaker` holds how someone talks: which synonyms, which grammar,
what is worth a mention. Axes: N scenes, 2 objects.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctvr_bench.features.worlds import motion, words
from ctvr_bench.features.worlds.render import RADIUS
from ctvr_bench.features.worlds.scene import CATEGORIES, NEEDS_TWO, NEUTRAL_SIZE, OBJECT_ATTRIBUTES, Floats, Scenes

Claims = dict[str, int]
"""What a caption says of one object: attribute to value."""


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims.

    objects: one entry per mentioned object, the acting one first. scene: 'background', and where the motion is told,
    'category', 'way', 'tempo', 'final colour'.
    """

    text: str
    objects: tuple[Claims, ...]
    scene: Claims


@dataclass(frozen=True)
class Speaker:
    """How captions are worded.

    synonyms: probabilities of the three names of a value. inverted: probability of the other grammar (attributes after
    the noun, the background first). mention: probability of naming each attribute, and 'second' a bystander, 'place'
    where an object is, 'verb' the motion, its 'way' and 'tempo'.
    """

    synonyms: tuple[float, float, float]
    inverted: float
    mention: Mapping[str, float]

    def word(self, rng: np.random.Generator, attribute: str, value: int) -> str:
        first, second, _ = self.synonyms
        return words.NAMES[attribute][value][bisect_right((first, first + second), rng.random())]


PRETRAINING = Speaker(
    synonyms=(0.55, 0.29, 0.16),
    inverted=0.1,
    mention={
        **{"shape": 0.85, "colour": 0.8, "size": 0.35, "texture": 0.45, "background": 0.45},
        **{"second": 0.55, "place": 0.35, "verb": 0.5, "way": 0.4, "tempo": 0.0},
    },
)


def describe_frame(rng: np.random.Generator, speaker: Speaker, scenes: Scenes, row: int, state_26: Floats) -> Caption:
    """A caption of one moment: what a single picture shows, and often the motion that its trail gives away."""
    visible = [k for k in range(2) if state_26[k, motion.OPACITY] > 0.3] or [0]
    first = visible[rng.integers(len(visible))]
    category = int(scenes.category_N[row])
    facts = [_seen(scenes, row, k, state_26[k]) for k in range(2)]
    tells = first == 0 and (len(visible) > 1 or not NEEDS_TWO[category]) and rng.random() < speaker.mention["verb"]
    said = _Sentence(rng, speaker, category if tells else None)
    body = said.noun_phrase(facts[first])
    if tells:
        body += " " + said.action(scenes, row, facts[1])
    if len(visible) > 1 and len(said.objects) < 2 and rng.random() < speaker.mention["second"]:
        other = visible[1 - visible.index(first)]
        link = _relation(state_26[first], state_26[other]) if rng.random() < 0.5 else "and"
        body += f" {link} {said.noun_phrase(facts[other])}"
    if rng.random() < speaker.mention["place"]:
        body += " " + _place(rng, state_26[first])
    return said.finish(body, int(scenes.background_N[row]))


def describe_video(rng: np.random.Generator, speaker: Speaker, scenes: Scenes, row: int) -> Caption:
    """A caption of a whole video: objects, the motion with its way and tempo, background; a random subset."""
    category = int(scenes.category_N[row])
    facts = [{a: int(scenes.of_object(a)[row, k]) for a in OBJECT_ATTRIBUTES} for k in range(2)]
    if CATEGORIES[category] in NEUTRAL_SIZE:
        del facts[0]["size"]
    tells = NEEDS_TWO[category] or rng.random() < speaker.mention["verb"]
    said = _Sentence(rng, speaker, category if tells else None)
    body = said.noun_phrase(facts[0])
    if tells:
        body += " " + said.action(scenes, row, facts[1])
    if scenes.count_N[row] > 1 and len(said.objects) < 2 and rng.random() < speaker.mention["second"]:
        body += f" {_choose(rng, ('near', 'beside', 'next to', 'with'))} {said.noun_phrase(facts[1])}"
    return said.finish(body, int(scenes.background_N[row]))


class _Sentence:
    """A caption that is being said; it remembers what it has claimed."""

    def __init__(self, rng: np.random.Generator, speaker: Speaker, category: int | None) -> None:
        self.rng, self.speaker = rng, speaker
        self.objects: list[Claims] = []
        self.scene: Claims = {} if category is None else {"category": category}

    def _flip(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def noun_phrase(self, facts: Claims) -> str:
        claims: Claims = {}
        self.objects.append(claims)
        said = {}
        for attribute in ("size", "texture", "colour", "shape"):
            if attribute in facts and self._flip(self.speaker.mention[attribute]):
                claims[attribute] = facts[attribute]
                said[attribute] = self.speaker.word(self.rng, attribute, facts[attribute])
        noun = said.pop("shape", None) or _choose(self.rng, words.NEUTRAL_NOUNS)
        article, qualities = _choose(self.rng, ("a", "the", "one")), list(said.values())
        if qualities and self._flip(self.speaker.inverted):
            self.rng.shuffle(qualities)
            return f"{article} {noun} {_choose(self.rng, ('that is', 'which is'))} {' and '.join(qualities)}"
        return " ".join([article, *qualities, noun])

    def action(self, scenes: Scenes, row: int, other: Claims) -> str:
        """The motion, the second object where it takes part, and perhaps its way and tempo."""
        name = CATEGORIES[int(scenes.category_N[row])]
        phrase = _choose(self.rng, words.VERBS[name])
        if "{other}" in phrase:
            phrase = phrase.replace("{other}", self.noun_phrase(other))
        if "{colour}" in phrase:
            self.scene["final colour"] = final = int(scenes.final_colour_N[row])
            phrase = phrase.replace("{colour}", self.speaker.word(self.rng, "colour", final))
        if name in words.WAYS and self._flip(self.speaker.mention["way"]):
            self.scene["way"] = way = int(scenes.way_N[row])
            phrase += " " + _choose(self.rng, words.WAYS[name][way])
        if self._flip(self.speaker.mention["tempo"]):
            self.scene["tempo"] = tempo = int(scenes.tempo_N[row])
            phrase += " " + _choose(self.rng, words.TEMPOS[tempo])
        return phrase

    def finish(self, body: str, background: int) -> Caption:
        inverted = self._flip(self.speaker.inverted)
        if inverted:
            body = f"{_choose(self.rng, ('there is', 'we see', 'a video of', 'a clip showing', 'look here is'))} {body}"
        if self._flip(self.speaker.mention["background"]):
            self.scene["background"] = background
            word = self.speaker.word(self.rng, "background", background)
            behind = f"{_choose(self.rng, ('on', 'over', 'against'))} a {word} {_choose(self.rng, words.BACKDROPS)}"
            body = f"{behind} {body}" if inverted else f"{body} {behind}"
        return Caption(_with_articles(body), tuple(self.objects), self.scene)


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _with_articles(text: str) -> str:
    """'a orange star' -> 'an orange star'."""
    return re.sub(r"\ba (?=[aeiou])(?!uniform)", "an ", text)


def _seen(scenes: Scenes, row: int, k: int, state_6: Floats) -> Claims:
    """The attributes of an object as one frame shows them."""
    facts = {attribute: int(scenes.of_object(attribute)[row, k]) for attribute in OBJECT_ATTRIBUTES}
    radius = RADIUS[facts["size"]] * state_6[motion.SCALE]
    facts["size"] = int(np.abs(np.array(RADIUS) - radius).argmin())
    if state_6[motion.RECOLOUR] > 0.5:
        facts["colour"] = int(scenes.final_colour_N[row])
    return facts


def _relation(first_6: Floats, other_6: Floats) -> str:
    right, down = first_6[: motion.Y + 1] - other_6[: motion.Y + 1]
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def _place(rng: np.random.Generator, state_6: Floats) -> str:
    sides = [("top", "", "bottom")[_third(state_6[motion.Y])], ("left", "", "right")[_third(state_6[motion.X])]]
    named = " ".join(filter(None, sides))
    if not named:
        return _choose(rng, ("in the center", "in the middle"))
    return f"in the {named} {_choose(rng, ('corner', 'part', 'side'))}"


def _third(place: float) -> int:
    return int(place > 0.4) + int(place > 0.6)
