"""FunnyBirds' protocol on the field guide's birds (Hesse et al. 2023, https://arxiv.org/abs/2308.06248).

An explanation is reduced to the importance of every part: the map's sum over the part's pixels and a little around
them. Completeness asks whether the parts it calls important (those with more than a share of the whole map) are enough,
needed, and not what makes no difference; correctness whether their order is that of the score's fall without each;
contrastivity whether another class's explanation moves to the parts that the bird shares with it.

What differs from the original:
- its classifier is trained on birds with missing parts too; this one may never have seen one;
- the share is chosen on birds drawn for that, not on those that are measured, and of 25, not 80;
- maps are 0 or larger: what speaks against a class is not seen;
- contrastivity's two classes are siblings of the bird's own, and shares of maps are compared, not sums;
- only rightly named birds are asked anything (there preservation and deletion are asked of all);
- `random`, the `oracle`, which knows how far the score falls without each part, and what a part's area alone gives are
  beside the rest: an oracle is not perfect where two parts are each enough.
"""

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from fgvc.explanation.birds import SIBLINGS, Bird, Darkroom, Guide, Scored, oracle_map
from fgvc.explanation.explainers import PAIRWISE, Explainer, versus
from fgvc.explanation.subject import Subject
from fgvc.runtime.chunks import Arrays
from shards.sources.field_guide.parts import BIRD_PARTS

SHARES = np.linspace(0.01, 0.5, 25)  # of a map's sum, from which a part is called important
IRRELEVANT = 0.05  # a part without which the logit falls by less than this share of it
CHECKS = ("csdc", "pc", "dc", "distractors")
QUESTIONS = ("completeness", "correctness", "contrastivity")
Maps = dict[int, np.ndarray]  # class -> (S, S) map
Answers = tuple[np.ndarray, float, float]  # to QUESTIONS
NOTHING = np.full((len(CHECKS), len(SHARES)), np.nan)
AREA = "area/correctness"  # of a map that is the same everywhere


def importances(map_: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, float]:
    """name -> the map's sum over its pixels and those around, two per hundred of the side (as the original's five)."""
    around = np.ones((2 * (len(map_) // 96) + 1,) * 2, np.uint8)
    return {name: float(map_[cv2.dilate(mask.astype(np.uint8), around) > 0].sum()) for name, mask in masks.items()}


class Pair(NamedTuple):
    """Two classes, the parts that a bird shares with the first and not the second, and the other way about."""

    a: int
    b: int
    of_a: set[str]
    of_b: set[str]


def candidate_pairs(guide: Guide, label: int, parts: Collection[str]) -> list[Pair]:
    """Siblings of a species that share different of these parts with it."""
    siblings = [other for other in range(len(guide.species)) if 0 < len(guide.tells(label, other)) <= SIBLINGS]
    shared = {other: set(parts) - set(guide.tells(label, other)) for other in siblings}
    pairs = [Pair(a, b, shared[a] - shared[b], shared[b] - shared[a]) for a, b in combinations(siblings, 2)]
    return [pair for pair in pairs if pair.of_a and pair.of_b]


class Protocol:
    """The questions of one bird; what it looks like without a set of parts is drawn once for all methods."""

    def __init__(self, darkroom: Darkroom, scored: Scored) -> None:
        self._darkroom, self.scored = darkroom, scored
        self.label = scored.bird.label
        self.parts = [name for name in scored.masks if name in BIRD_PARTS]
        self.predicted = int(scored.logits.argmax())
        self._answers: dict[frozenset[str], int] = {}

    @cached_property
    def pair(self) -> Pair | None:
        """Two classes that share different parts with the bird, and by which the classifier tells them: without the
        parts of the first, the first's logit falls more than without those of the second, and the other way about. Of
        several the first; None where there are none."""
        for found in candidate_pairs(self._darkroom.guide, self.label, self.parts):
            edits = [sorted(found.of_a), sorted(found.of_b)]
            gone_a, gone_b = self._darkroom.logits(self.scored.bird, edits) - self.scored.logits
            if gone_a[found.a] < gone_b[found.a] and gone_b[found.b] < gone_a[found.b]:
                return found
        return None

    def answer(self, without: frozenset[str]) -> int:
        """The class that is predicted without a set of parts."""
        if without not in self._answers:
            self._answers[without] = int(self._darkroom.logits(self.scored.bird, [sorted(without)])[0].argmax())
        return self._answers[without]

    def irrelevant(self) -> set[str]:
        """Parts and things without which the logit does not fall, or by less than a twentieth."""
        least = abs(float(self.scored.logits[self.label])) * IRRELEVANT
        return {name for name, fall in self.scored.falls(self.label).items() if fall < least}

    def asked(self, maps: Maps, pairs_only: bool = False) -> Answers:
        """Completeness, correctness and contrastivity of a method's maps, by class; or the last alone."""
        if pairs_only:
            return NOTHING, np.nan, self.contrastivity(maps)
        own = maps[self.label]
        return self.completeness(own), self.correctness(own), self.contrastivity(maps)

    def completeness(self, map_: np.ndarray) -> np.ndarray:
        """(checks, shares) in 0 to 1: csdc, pc, dc, distractors at every share; NaN where nothing is irrelevant."""
        found = importances(map_, self.scored.masks)
        total, idle = float(map_.sum()), self.irrelevant()
        enough = [parts & set(self.parts) for parts in self._darkroom.guide.sufficient(self.label)]
        rows = []
        for share in SHARES:
            important = {name for name, value in found.items() if value > share * total}
            own = important & set(self.parts)
            rows.append((
                max((len(own & parts) / len(parts) for parts in enough if parts), default=0.0),
                self.answer(frozenset(self.parts) - own) == self.predicted,
                self.answer(frozenset(own)) != self.predicted,
                1 - len(important & idle) / len(idle) if idle else np.nan,
            ))  # fmt: skip
        return np.array(rows, float).T

    def correctness(self, map_: np.ndarray) -> float:
        """Rank correlation of the parts' importances with the falls without them, from -1..1 to 0..1; NaN where either
        is constant."""
        found, falls = importances(map_, self.scored.masks), self.scored.falls(self.label)
        ours, truth = ([values[name] for name in self.parts] for values in (found, falls))
        if len(self.parts) < 2 or np.ptp(ours) == 0 or np.ptp(truth) == 0:
            return np.nan
        return float(spearmanr(ours, truth).statistic) / 2 + 0.5

    def contrastivity(self, maps: Maps) -> float:
        """Whether the parts shared with either of two classes matter more to that class than to the other (half a point
        each); NaN where there are no such classes."""
        if self.pair is None:
            return np.nan
        a, b, of_a, of_b = self.pair
        by_a, by_b = (_shares(importances(maps[label], self.scored.masks), maps[label]) for label in (a, b))
        first = sum(by_a[part] for part in of_a) > sum(by_b[part] for part in of_a)
        second = sum(by_b[part] for part in of_b) > sum(by_a[part] for part in of_b)
        return (first + second) / 2


def _shares(found: dict[str, float], map_: np.ndarray) -> dict[str, float]:
    """Importances as shares of a map: maps of two classes have no common unit."""
    total = float(map_.sum())
    return {name: value / total if total > 0 else 0.0 for name, value in found.items()}


def background_independence(scored: Scored, label: int) -> float:
    """The share of the things around a bird without which the logit falls by less than a twentieth; of the classifier,
    not of a method."""
    least = abs(float(scored.logits[label])) * IRRELEVANT
    falls = [fall for name, fall in scored.falls(label).items() if name not in BIRD_PARTS]
    return float(np.mean([fall < least for fall in falls])) if falls else np.nan


def best_share(completeness: np.ndarray) -> int:
    """Which of SHARES suits a method: the one with the best completeness of (N, checks, shares) on birds set aside."""
    return int(np.nan_to_num(completeness_of(completeness)).argmax())


def completeness_of(checks: np.ndarray) -> np.ndarray:
    """(shares,) from (N, checks, shares): the mean of the three checks' mean and the distractors'."""
    means = np.nanmean(checks, axis=0)
    return (means[:3].mean(0) + means[3]) / 2


def protocol_rows(
    darkroom: Darkroom, methods: dict[str, Explainer], birds: Sequence[Bird], numbers: Sequence[int],
    pairs_only: bool = False,
) -> Arrays:  # fmt: skip
    """The protocol on some birds, a row a bird: completeness (checks, shares), correctness and contrastivity of every
    method and of the oracle, background independence of the classifier. NaN for birds that it does not recognise.

    numbers: the birds' own, from which `random` draws. pairs_only: contrastivity alone.
    """
    rows: dict[str, list[Any]] = {}
    for bird, number in zip(birds, numbers, strict=True):
        protocol = Protocol(darkroom, darkroom.score(bird))
        right = protocol.predicted == protocol.label
        row: dict[str, Any] = {"right": float(right), "background": np.nan, AREA: np.nan}
        if right and not pairs_only:
            row["background"] = background_independence(protocol.scored, protocol.label)
            row[AREA] = protocol.correctness(np.ones(protocol.scored.image.shape[1:], np.float32))
        for name in [*methods, "oracle"]:
            found: Answers = NOTHING, np.nan, np.nan
            if right and (protocol.pair or not pairs_only):
                found = protocol.asked(_maps_of(name, methods, darkroom.subject, protocol, number), pairs_only)
            row |= {f"{name}/{key}": value for key, value in zip(QUESTIONS, found, strict=True)}
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
    return {key: np.array(values) for key, values in rows.items()}


def _maps_of(
    name: str, methods: dict[str, Explainer], subject: Subject, protocol: Protocol, number: int
) -> Maps:  # fmt: skip
    """A method's maps of a bird's own class and of its pair's."""
    pair, scored = protocol.pair, protocol.scored
    classes = [protocol.label, *((pair.a, pair.b) if pair else ())]
    if name == "oracle":
        return {label: oracle_map(scored, label).numpy() for label in classes}
    inputs = subject.normalise(scored.image[None]).expand(len(classes), -1, -1, -1)
    made = methods[name](inputs, torch.tensor(classes), [number] * len(classes))
    maps = {label: map_.numpy() for label, map_ in zip(classes, made, strict=True)}
    return maps | (_of_pair(name, subject, inputs[1:], pair) if pair and name in PAIRWISE else {})


def _of_pair(name: str, subject: Subject, inputs: Tensor, pair: Pair) -> Maps:
    """A method that sets a class against another, asked about a pair: each against the other. Left to itself it would
    choose the bird's own class, and leave out the parts that are shared with it, which are those asked for."""
    labels = torch.tensor([pair.a, pair.b])
    made = versus(name, subject)(inputs, labels, labels.flip(0), [0, 0])
    return {label: map_.numpy() for label, map_ in zip(labels.tolist(), made, strict=True)}
