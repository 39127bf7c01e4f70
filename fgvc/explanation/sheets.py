"""The pictures of a run: overlays, sheets by class and by confused pair, why one class and not another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgvc.explanation.birds import Darkroom
from fgvc.explanation.contrast import closest_calls, features, most_alike, named_parts, part_strengths
from fgvc.explanation.examination import Found
from fgvc.explanation.explainers import contrast
from fgvc.explanation.gallery import Gallery
from fgvc.explanation.pictures import Side, contact_sheet, contrast_picture, overlay, save_overlays
from fgvc.explanation.subject import Subject

Captioned = tuple[str, np.ndarray]  # (S, S, 3) uint8
OVERLAYS, CLASSES, PAIRS, A_ROW, ALIKE = 12, 12, 6, 6, 3


@dataclass
class Sheets:
    """Draws into a run folder. classes: names. training: label -> (N, 3, S, S) uint8 training images of a class."""

    folder: Path
    found: Found
    gallery: Gallery
    subject: Subject
    classes: Sequence[str]
    training: Callable[[int], Tensor]
    darkroom: Darkroom | None = None
    _known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def overlays(self) -> dict[str, Path]:
        """overlays/KEY.png: an image under every method's map."""
        rows = self.found.few or self.found.rows
        places, written = range(min(OVERLAYS, len(rows["entries"]))), {}
        images = self._images(rows["entries"][:OVERLAYS])
        for place, image in zip(places, images, strict=True):
            key = self._key(rows["entries"][place])
            maps = {name: rows[f"{name}/map"][place] for name in self.found.methods if f"{name}/map" in rows}
            title = f"{key}: {self._name(rows['predicted'][place])} {rows['probability'][place]:.0%}"
            written[f"overlays/{key}"] = self._path("overlays", key)
            save_overlays(written[f"overlays/{key}"], title, image, maps)
        return written

    def sheets(self, method: str, first: Sequence[str] = ()) -> dict[str, Path]:
        """classes.png: images that are said to be of a class, these classes first and then the most frequent;
        confused.png: those of one class taken for another."""
        rows = self.found.of(method)
        said: dict[str, list[int]] = {}
        confused: dict[str, list[int]] = {}
        for place, (label, predicted) in enumerate(zip(rows["labels"], rows["predicted"], strict=True)):
            said.setdefault(self._name(predicted), []).append(place)
            if label not in (-1, predicted):
                confused.setdefault(f"{self._name(label)} taken for {self._name(predicted)}", []).append(place)
        ahead = [self._name(list(self.classes).index(name)) for name in first]
        named = {
            "classes": self._sheet(method, said, CLASSES, ahead), "confused": self._sheet(method, confused, PAIRS)
        }  # fmt: skip
        written = {name: self.folder / f"{name}.png" for name, lines in named.items() if lines}
        for name, path in written.items():
            contact_sheet(path, f"warm: what speaks for the class, by {method}", named[name], A_ROW)
        return written

    def contrasts(self, count: int, pair: Sequence[str] = ()) -> dict[str, Path]:
        """contrasts/KEY.png: why the one class and not the other, of the closest calls; with a pair of images that are
        said to be either."""
        rows, written = self.found.rows, {}
        named = [list(self.classes).index(name) for name in pair]
        gaps = rows["probability"] - rows["runner_up_probability"]
        either = np.flatnonzero(np.isin(rows["predicted"], named)) if pair else np.arange(len(gaps))
        either = either if len(either) else np.arange(len(gaps))
        for place in either[closest_calls(gaps[either], count)]:
            a, b = named or (int(rows["predicted"][place]), int(rows["runner_up"][place]))
            number = int(rows["entries"][place])
            path = self._path("contrasts", self._key(number))
            self._contrast(path, number, a, b)
            written[f"contrasts/{self._key(number)}"] = path
        return written

    def _contrast(self, path: Path, number: int, a: int, b: int) -> None:
        image, entry = self.gallery.images([number]), self.gallery.entries[number]
        inputs = self.subject.normalise(image)
        signed = contrast(self.subject, inputs, torch.tensor([a]), torch.tensor([b]))[0].numpy()
        chances = torch.softmax(self.subject.logits(inputs), 1)[0]
        parts = self._strengths(number, signed) if self.darkroom else {}
        sides = [
            Side(self._name(label), float(chances[label]), self._alike(image, label), named_parts(parts, side))
            for side, label in enumerate((a, b))
        ]
        truth = f" (is {self._name(entry.label)})" if entry.label >= 0 else ""
        title = f"{entry.key}{truth}: why {sides[0].name} and not {sides[1].name}?"
        differ = self.darkroom.guide.tells(a, b) if self.darkroom else []
        contrast_picture(path, title, image[0].permute(1, 2, 0).numpy(), signed, sides[0], sides[1], differ)

    def _alike(self, image: Tensor, label: int) -> list[np.ndarray]:
        """Training images of a class that look most like this one to the classifier, itself left out."""
        if label not in self._known:
            images = self.training(label)
            self._known[label] = images, features(self.subject, images) if len(images) else images
        images, theirs = self._known[label]
        if not len(images):
            return []
        chosen = most_alike(features(self.subject, image)[0], theirs, ALIKE + 1)
        others = [place for place in chosen if not torch.equal(images[place], image[0])]
        return [images[place].permute(1, 2, 0).numpy() for place in others[:ALIKE]]

    def _strengths(self, number: int, signed: np.ndarray) -> dict[str, tuple[float, float]]:
        """As `part_strengths`, with half a cell of the finest layer that the map is made from about each part."""
        assert self.darkroom is not None
        guide, placed = self.darkroom.guide, self.gallery.placements[number]
        bird = guide.bird(self.gallery.entries[number])
        masks = {name: placed.mask(mask) for name, mask in guide.part_regions(bird).items()}
        cell = self.subject.size / max(layer.layout[0] for layer in self.subject.layers[:2])
        return part_strengths(signed, masks, placed.mask(guide.silhouette(bird)), round(cell / 2))

    def _sheet(
        self, method: str, groups: Mapping[str, list[int]], most: int, first: Sequence[str] = ()
    ) -> dict[str, list[tuple[str, np.ndarray]]]:
        """Title -> (caption, overlay) of groups: those named first, then the largest."""
        rows, ahead = self.found.of(method), {title: place for place, title in enumerate(first)}
        order = sorted(groups.items(), key=lambda item: (ahead.get(item[0], len(ahead)), -len(item[1]), item[0]))
        lines = {}
        for title, group in order[:most]:
            places = group[:A_ROW]
            images = self._images(rows["entries"][places])
            captions = [f"{self._key(rows['entries'][at])[-18:]} {rows['probability'][at]:.0%}" for at in places]
            pictures = [overlay(image, rows[f"{method}/map"][at]) for image, at in zip(images, places, strict=True)]
            lines[title] = list(zip(captions, pictures, strict=True))
        return lines

    def _images(self, numbers: np.ndarray) -> np.ndarray:
        return self.gallery.images([int(number) for number in numbers]).permute(0, 2, 3, 1).numpy()

    def _key(self, number: int) -> str:
        return self.gallery.entries[int(number)].key

    def _name(self, label: int) -> str:
        return self.classes[int(label)].split(".", 1)[-1].replace("_", " ")[:34]

    def _path(self, folder: str, key: str) -> Path:
        (self.folder / folder).mkdir(exist_ok=True)
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in key)[:90] or "image"
        return self.folder / folder / f"{safe}.png"
