"""What `fgvc explain` leaves to be looked at and used: a line an image, pictures, a boxes layer."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgvc.explanation.examination import Found
from fgvc.explanation.gallery import of_shards
from fgvc.explanation.lines import layer_of, lines
from fgvc.explanation.sheets import Sheets
from fgvc.runtime.run_folder import RunFolder
from fgvc.runtime.tracking import Tracker
from jobs.config import to_dict
from jobs.explain import Config
from jobs.tasks.measured import Measured, drawn
from shards.boxes_layer import write_layer
from shards.files import write_bytes

TRAINING = 100  # images of a class, drawn, that the most alike are chosen from
PREFERRED = "layercam"
SHOWN = 8  # pictures that the tracker gets


def write_outputs(config: Config, opened: Any, found: Found, figures: dict[str, Any], folder: RunFolder) -> None:
    """Write everything into the run folder and hand it to the tracker; `figures` gets notes for the report.

    opened: jobs.tasks.explain.Opened.
    """
    classes, notes = opened.about["classes"], figures.setdefault("notes", [])
    text = "".join(json.dumps(line) + "\n" for line in lines(found, opened.gallery, classes))
    write_bytes(folder.path / "explanations.jsonl", text.encode())
    if config.boxes_by and opened.measured:
        path = folder.path / "boxes.jsonl"
        made_by: dict[str, Any] = {"job": "explain", "run": config.name, "method": config.boxes_by}
        made_by |= {"threshold": config.box_threshold, "weights": opened.inputs["weights"]}
        boxes = layer_of(found.boxes, opened.everything(config))
        write_layer(path, opened.measured.manifest, boxes, made_by)
        notes.append(f"boxes of {len(boxes)} images: data.boxes={path}")
    method, excess = figures["sheets_by"], figures.get("excess_by_class", {})
    for name in figures.get("off_object", []):
        notes.append(
            f"off the object: {name} ({method}'s maps {excess[name]:+.0%} over the boxes' share of the image, other "
            f"classes up to {max(excess.values()):+.0%}); perhaps a shortcut: the first rows of classes.png"
        )
    sheets = Sheets(
        folder.path, found, opened.gallery, opened.subject, classes, _training(opened.measured, opened.subject.size),
        opened.darkroom,
    )  # fmt: skip
    pictures = sheets.sheets(method, list(excess)) | sheets.contrasts(config.contrasts, config.pair) | sheets.overlays()
    _track(config, figures, dict(list(pictures.items())[:SHOWN]), folder)


def shown_method(config: Config, methods: Sequence[str]) -> str:
    """The method of the sheets and of the note on classes whose maps are off the object."""
    return config.sheet or (PREFERRED if PREFERRED in methods else methods[0])


def _training(measured: Measured | None, size: int) -> Any:
    """label -> some training images of that class as the classifier sees them; none for photos."""

    def images(label: int) -> Tensor:
        if measured is None:
            return torch.zeros(0)
        split, entries = measured.data.train_split, measured.manifest.entries
        chosen = [i for i, entry in enumerate(entries) if entry.split == split and entry.label == label]
        chosen = drawn(chosen, TRAINING, 0)
        if not chosen:
            return torch.zeros(0)
        view = measured.views(chosen)[-1]
        gallery = of_shards(measured.manifest, chosen, view, measured.image, size, workers=0, cache=measured.data.cache)
        return gallery.images(chosen)

    return images


def _track(config: Config, figures: dict[str, Any], pictures: dict[str, Any], folder: RunFolder) -> None:
    flat = {
        f"{name}/{score}": value
        for name, row in figures["methods"].items()
        for score, value in row.items()
        if isinstance(value, float)
    }
    tracker = Tracker(config.track, folder.path, "explain", config.name, to_dict(config))
    try:
        tracker.log(0, flat)
        tracker.summary(flat)
        tracker.pictures(0, pictures)
    finally:
        tracker.close()
