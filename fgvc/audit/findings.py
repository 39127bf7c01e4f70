"""All that an audit found, as figures, as JSON, and as corrections for the next build."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fgvc.audit.boxes import OddBox
from fgvc.audit.duplicates import Pair
from shards.cells import write_rows
from shards.manifest import Manifest
from shards.sample import SPLITS

HEADER = ["key", "action", "label", "now", "split", "why", "score"]
KEPT_FIRST = ("test", "val", "train")  # of copies in several splits the one that is measured on stays


@dataclass(frozen=True)
class Label:
    """An image, by its place in the manifest, and a class that is `odds` times as probable as its label."""

    index: int
    suggested: int
    odds: float


@dataclass
class Findings:
    """What was found in `manifest`, by places in it. top1: share of labels that a probe gives too, out of fold."""

    manifest: Manifest
    images: int
    exact: list[list[int]] = field(default_factory=list)
    near: list[Pair] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    boxes: list[OddBox] = field(default_factory=list)
    classes: list[tuple[str, int]] = field(default_factory=list)
    top1: float | None = None
    notes: list[str] = field(default_factory=list)

    def split(self, index: int) -> str:
        return SPLITS[int(self.manifest.entries.split[index])]

    def name(self, index: int) -> str:
        """The class that an image is labelled as."""
        return self.manifest.classes[int(self.manifest.entries.label[index])]

    def groups(self) -> list[list[int]]:
        """Exact copies, each group with the one that stays first."""
        return [sorted(group, key=lambda index: (KEPT_FIRST.index(self.split(index)), index)) for group in self.exact]

    def set_near(self, pairs: Sequence[Pair]) -> None:
        """Take the pairs that look the same; of exact copies only those of the one that stays: a copy that is dropped
        would stand for it, in another split maybe."""
        copies = {index for group in self.groups() for index in group[1:]}
        self.near = [pair for pair in pairs if not {pair.first, pair.second} & copies]

    def figures(self) -> dict[str, Any]:
        """What result.json holds."""
        pairs = [(pair.first, pair.second) for pair in self.near]
        pairs += [(group[0], other) for group in self.groups() for other in group[1:]]
        counts = [count for _, count in self.classes]
        return {
            "images": self.images, "exact": sum(len(group) - 1 for group in self.exact), "near": len(self.near),
            "across": sum(self.split(a) != self.split(b) for a, b in pairs), "doubtful": len(self.labels),
            "boxes": len(self.boxes), "imbalance": max(counts) / max(min(counts), 1), "notes": self.notes,
        } | ({} if self.top1 is None else {"top1": self.top1})  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Every finding, by key."""
        key = self.manifest.entries.key
        return {
            "exact": [[key(index) for index in group] for group in self.groups()],
            "near": [[key(pair.first), key(pair.second), pair.likeness] for pair in self.near],
            "labels": [
                {"key": key(found.index), "label": self.name(found.index), "odds": found.odds,
                 "suggested": self.manifest.classes[found.suggested]}
                for found in self.labels
            ],
            "boxes": [{"key": key(odd.index), "box": odd.box, "why": odd.why} for odd in self.boxes],
            "classes": dict(self.classes),
        }  # fmt: skip

    def corrections(self) -> str:
        """The CSV that `fgvc shards build` takes as corrections=, a line a finding about a label or a copy."""
        stream = io.StringIO()
        write_rows(stream, [HEADER, *self._rows()])
        return stream.getvalue()

    def _rows(self) -> Iterator[list[Any]]:
        entries = self.manifest.entries

        def row(index: int, action: str, why: str, score: float, label: str = "") -> list[Any]:
            return [entries.key(index), action, label, self.name(index), self.split(index), why, score]

        for kept, *others in self.groups():
            for index in others:
                same = self.name(index) == self.name(kept)
                why = f"the same bytes as {entries.key(kept)} ({self.split(kept)})"
                # With two labels one of them is wrong, and which is not known.
                yield row(index, "drop" if same else "keep", why if same else f"{why}, which is {self.name(kept)}", 1.0)
        for pair in self.near:
            stays, index = sorted((pair.first, pair.second), key=lambda i: (KEPT_FIRST.index(self.split(i)), i))
            yield row(index, "keep", f"drop? looks like {entries.key(stays)} ({self.split(stays)})", pair.likeness)
        for found in self.labels:
            suggested = self.manifest.classes[found.suggested]
            yield row(found.index, "keep", "relabel? so many times as probable", found.odds, suggested)
