"""What `fgvc explain` leaves to be looked at and used: a line an image, pictures, a boxes layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgvc.explanation.contrast import closest_calls, features, most_alike, named_parts, part_shares
from fgvc.explanation.explainers import contrast
from fgvc.explanation.gallery import of_shards
from fgvc.explanation.pictures import Side, contact_sheet, contrast_picture, overlay, save_overlays
from fgvc.runtime.run_folder import RunFolder
from fgvc.runtime.tracking import Tracker
from jobs.config import to_dict
from jobs.explain import Config
from jobs.tasks.explain_tables import Found
from shards.boxes_layer import write_layer
from shards.files import write_bytes

OVERLAYS, CLASSES, PAIRS, A_ROW = 12, 12, 6, 6
TRAINING = 30  # images of a class that the most alike are chosen from
ALIKE = 3
PREFERRED = "layercam"


def write_outputs(config: Config, opened: Any, found: Found, figures: dict[str, Any], folder: RunFolder) -> None:
    """Write everything into the run folder and hand it to the tracker; `figures` gets notes for the report."""
    sheet = config.sheet or (PREFERRED if PREFERRED in found.methods else found.methods[0])
    _write_lines(folder.path / "explanations.jsonl", opened, found)
    pictures = _sheets(folder.path, opened, found, sheet) | _overlays(folder.path / "overlays", opened, found)
    pictures |= _contrasts(config, folder.path / "contrasts", opened, found)
    notes = figures.setdefault("notes", [])
    if config.boxes_by:
        boxes = _layer(config, folder.path / "boxes.jsonl", opened, found)
        notes.append(f"boxes of {boxes} images: data.boxes={folder.path / 'boxes.jsonl'}")
    if by_class := figures.get("energy_by_class"):
        name, energy = next(iter(by_class.items()))
        notes.append(f"least on the object: {name} ({energy:.0%} of {found.methods[0]}'s maps); look at classes.png")
    tracker = Tracker(config.track, folder.path, "explain", config.name, to_dict(config))
    try:
        flat = {
            f"{name}/{score}": value
            for name, row in figures["methods"].items()
            for score, value in row.items()
            if isinstance(value, float)
        }
        tracker.log(0, flat)
        tracker.summary(flat)
        tracker.pictures(0, pictures)
    finally:
        tracker.close()


def _write_lines(path: Path, opened: Any, found: Found) -> None:
    """explanations.jsonl: every image's classes and, by method, its scores and the box in the stored image's pixels."""
    rows, classes, lines = found.rows, opened.about["classes"], []
    for place, number in enumerate(rows["entries"]):
        entry, placed = opened.gallery.entries[int(number)], opened.gallery.placements[int(number)]
        by_method = {}
        for name in found.methods:
            if f"{name}/box" in rows:
                scores = {key: float(rows[f"{name}/{key}"][place]) for key in ("pointing", "energy", "telling")}
                box = _stored(placed, rows[f"{name}/box"][place], entry)
                known = {key: round(value, 5) for key, value in scores.items() if not np.isnan(value)}
                by_method[name] = known | {"box": box}
        lines.append({
            "key": entry.key, "label": classes[entry.label] if entry.label >= 0 else None,
            "predicted": classes[int(rows["predicted"][place])],
            "probability": round(float(rows["probability"][place]), 6),
            "runner_up": classes[int(rows["runner_up"][place])], "methods": by_method,
        })  # fmt: skip
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _stored(placed: Any, box: np.ndarray, entry: Any) -> list[float] | None:
    """A box of the input (x0, y0, x1, y1, score) in the stored image, cut to it; None where there is none."""
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    x0, y0, x1, y1 = placed.back(tuple(float(value) for value in box[:4]))
    left, right = np.clip([x0, x1], 0, entry.width).tolist()
    top, bottom = np.clip([y0, y1], 0, entry.height).tolist()
    return [round(value, 2) for value in (left, top, right, bottom)] if right > left and bottom > top else None


def _layer(config: Config, path: Path, opened: Any, found: Found) -> int:
    """The boxes layer of one method."""
    rows, name = found.rows if f"{config.boxes_by}/box" in found.rows else found.few, config.boxes_by
    boxes = {}
    for place, number in enumerate(rows["entries"]):
        entry, placed = opened.gallery.entries[int(number)], opened.gallery.placements[int(number)]
        box = rows[f"{name}/box"][place]
        stored = _stored(placed, box, entry)
        boxes[entry.key] = [(*stored, float(box[4]))] if stored else []
    made_by = {"job": "explain", "run": config.name, "method": name, "threshold": config.box_threshold}
    write_layer(path, opened.measured.manifest, boxes, made_by | {"weights": opened.inputs["weights"]})
    return len(boxes)


def _pictures_of(opened: Any, numbers: list[int]) -> dict[int, np.ndarray]:
    if not numbers:
        return {}
    images = opened.gallery.images(numbers).permute(0, 2, 3, 1).numpy()
    return dict(zip(numbers, images, strict=True))


def _overlays(folder: Path, opened: Any, found: Found) -> dict[str, Path]:
    rows, written = found.few or found.rows, {}
    folder.mkdir(exist_ok=True)
    numbers = [int(number) for number in rows["entries"][:OVERLAYS]]
    images = _pictures_of(opened, numbers)
    for place, number in enumerate(numbers):
        entry = opened.gallery.entries[number]
        maps = {name: rows[f"{name}/map"][place] for name in found.methods if f"{name}/map" in rows}
        title = f"{entry.key}: {_short(opened, int(rows['predicted'][place]))} {rows['probability'][place]:.0%}"
        path = folder / f"{_safe(entry.key)}.png"
        save_overlays(path, title, images[number], maps)
        written[f"overlay/{entry.key}"] = path
    return dict(list(written.items())[:4])


def _sheets(folder: Path, opened: Any, found: Found, sheet: str) -> dict[str, Path]:
    """classes.png: images that are predicted to be of a class; confused.png: those of one class taken for another."""
    rows = found.rows if f"{sheet}/map" in found.rows else found.few
    groups: dict[str, list[int]] = {}
    confused: dict[str, list[int]] = {}
    for place, predicted in enumerate(rows["predicted"]):
        groups.setdefault(_short(opened, int(predicted)), []).append(place)
        label = int(rows["labels"][place])
        if label not in (-1, int(predicted)):
            confused.setdefault(f"{_short(opened, label)} taken for {_short(opened, int(predicted))}", []).append(place)
    written = {}
    for name, chosen, most in (("classes", groups, CLASSES), ("confused", confused, PAIRS)):
        largest = sorted(chosen.items(), key=lambda item: (-len(item[1]), item[0]))[:most]
        places = [place for _, group in largest for place in group[:A_ROW]]
        images = _pictures_of(opened, [int(rows["entries"][place]) for place in places])
        lines = {
            title: [
                (
                    f"{opened.gallery.entries[int(rows['entries'][place])].key[-18:]} {rows['probability'][place]:.0%}",
                    overlay(images[int(rows["entries"][place])], rows[f"{sheet}/map"][place]),
                )
                for place in group[:A_ROW]
            ]
            for title, group in largest
        }
        if lines:
            contact_sheet(folder / f"{name}.png", lines, A_ROW)
            written[name] = folder / f"{name}.png"
    return written


def _contrasts(config: Config, folder: Path, opened: Any, found: Found) -> dict[str, Path]:
    """Why A and not B, of the closest calls; with `pair`, of images that are either."""
    rows, classes, written = found.rows, opened.about["classes"], {}
    gaps = rows["probability"] - rows["runner_up_probability"]
    if config.pair:
        wanted = [classes.index(name) for name in config.pair]
        either = [place for place, label in enumerate(rows["predicted"]) if label in wanted] or list(range(len(gaps)))
        places = [either[place] for place in closest_calls(gaps[either], config.contrasts)]
    else:
        places = closest_calls(gaps, config.contrasts)
    folder.mkdir(exist_ok=True)
    alike = _Training(config, opened)
    for place in places:
        number = int(rows["entries"][place])
        a, b = wanted if config.pair else (int(rows["predicted"][place]), int(rows["runner_up"][place]))
        image = opened.gallery.images([number])
        inputs = opened.subject.normalise(image)
        signed = contrast(opened.subject, inputs, torch.tensor([a]), torch.tensor([b]))[0].numpy()
        chances = torch.softmax(opened.subject.logits(inputs), 1)[0]
        parts = part_shares(signed, _masks(opened, number)) if opened.darkroom else {}
        sides = [
            Side(_short(opened, label), float(chances[label]), alike.images(image, label), named_parts(parts, side))
            for side, label in enumerate((a, b))
        ]
        entry = opened.gallery.entries[number]
        truth = f"{entry.key}" + (f" (is {_short(opened, entry.label)})" if entry.label >= 0 else "")
        path = folder / f"{_safe(entry.key)}.png"
        title = f"{truth}: why {sides[0].name} and not {sides[1].name}?"
        contrast_picture(path, title, image[0].permute(1, 2, 0).numpy(), signed, *sides)
        written[f"contrast/{entry.key}"] = path
    return dict(list(written.items())[:4])


def _masks(opened: Any, number: int) -> dict[str, np.ndarray]:
    entry, placed = opened.gallery.entries[number], opened.gallery.placements[number]
    regions = opened.darkroom.guide.part_regions(opened.darkroom.guide.bird(entry))
    return {name: placed.mask(mask) for name, mask in regions.items()}


class _Training:
    """Training images of a class as the classifier sees them, with their features; found once a class."""

    def __init__(self, config: Config, opened: Any) -> None:
        self._config, self._opened, self._known = config, opened, {}

    def images(self, image: torch.Tensor, label: int) -> list[np.ndarray]:
        """Those of a class that are most alike, the image itself left out."""
        opened = self._opened
        if opened.measured is None:
            return []
        if label not in self._known:
            self._known[label] = self._class(label)
        found, theirs = self._known[label]
        if not len(found):
            return []
        chosen = most_alike(features(opened.subject, image)[0], theirs, ALIKE + 1)
        others = [place for place in chosen if not torch.equal(found[place], image[0])]
        return [found[place].permute(1, 2, 0).numpy() for place in others[:ALIKE]]

    def _class(self, label: int) -> tuple[torch.Tensor, torch.Tensor]:
        measured, subject = self._opened.measured, self._opened.subject
        of_class = [
            index
            for index, entry in enumerate(measured.manifest.entries)
            if entry.split == measured.data.train_split and entry.label == label
        ][:TRAINING]
        if not of_class:
            return torch.zeros(0), torch.zeros(0)
        view = measured.views(of_class)[-1]
        gallery = of_shards(measured.manifest, of_class, view, measured.image, subject.size, workers=0, cache="")
        images = gallery.images(of_class)
        return images, features(subject, images)


def _short(opened: Any, label: int) -> str:
    return opened.about["classes"][label].split(".", 1)[-1].replace("_", " ")[:34]


def _safe(key: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in key)[:90] or "image"
