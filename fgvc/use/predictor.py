"""A trained classifier at work on single pictures: the logits of `fgvc evaluate`, calibrated probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from fgvc.classification.evaluation import image_as_measured
from fgvc.models.timm import load_classifier
from fgvc.use.pictures import Source, open_picture
from shards.building.encode import ImageError
from shards.errors import UserError
from shards.reading.transforms import eval_transform
from shards.reading.views import TRUTH, Policy, View, views_of_one
from shards.sample import Box
from shards.sources.problems import printable

# Times that a picture, or what a box keeps of it, may be longer than wide: where the short side is enlarged to the
# input's, 268 bytes of a PNG of 65000 x 1 pixels would take 40 GB.
THIN = 50


@dataclass(frozen=True)
class Answer:
    """One class and how probable it is."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one picture.

    logits: (classes,) float32, as `fgvc evaluate` has them. probabilities: (classes,), of logits divided by the
    temperature where there is one (calibrated). top: the most probable classes, best first. box: what it was cropped
    by, in pixels of the upright picture; None: it was kept whole. error: why the picture could not be read; then
    nothing else holds.
    """

    picture: str
    width: int = 0
    height: int = 0
    box: Box | None = None
    logits: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    top: tuple[Answer, ...] = ()
    calibrated: bool = False
    error: str = ""

    def as_dict(self, logits: bool = False) -> dict[str, Any]:
        """As JSON has it."""
        if self.error or self.logits is None:
            return {"picture": self.picture, "error": self.error}
        found: dict[str, Any] = {
            "picture": self.picture, "width": self.width, "height": self.height,
            "box": [round(value, 2) for value in self.box] if self.box else None,
            "top": [{"class": answer.name, "probability": round(answer.probability, 6)} for answer in self.top],
            "calibrated": self.calibrated,
        }  # fmt: skip
        return found | ({"logits": self.logits.tolist()} if logits else {})


@dataclass(frozen=True)
class Picture:
    """A picture that was read: its name, its (3, H, W) pixels, shrunk where asked; its width, height and box upright,
    before that; its views and, crop by crop of each, what the network is given."""

    name: str
    pixels: Tensor
    width: int
    height: int
    box: Box | None
    views: tuple[View, ...]
    inputs: tuple[Tensor, ...]

    @property
    def last(self) -> Tensor:
        """(3, S, S) uint8, the last view's input: of several crops of it the middle one, which comes first."""
        return self.inputs[-(len(self.inputs) // len(self.views))]


@dataclass(frozen=True)
class Unread:
    """A picture that could not be read, and why."""

    name: str
    error: str


class Predictor:
    """A classifier from its weights file, in fp32 on one device.

    Images are sized, cropped and normalised as the file says. A classifier that was trained on crops takes a box with
    every picture; one without a box is kept whole, as in evaluation.
    """

    def __init__(self, weights: Path, device: str = "", detector: Path | None = None) -> None:
        """detector: weights of `fgvc detect`, which find the box of a picture that comes without one."""
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: there is no GPU here that torch can use; leave it out")
        self.weights = weights
        self.model, self.about = load_classifier(weights)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = self.model.to(self.device).eval()
        self.classes = tuple(printable(name) for name in self.about["classes"])
        self.temperature: float | None = self.about.get("temperature")
        self.size: int = self.about["size"]
        self.image = image_as_measured(self.about)
        self.policy = Policy(self.about["crop"], self.about["margin"], TRUTH, self.about.get("min_score", 0.0))
        self.finder = None
        if detector is not None and self.crops:
            from fgvc.use.finder import Finder  # loads mmdet

            self.finder = Finder(detector, self.device)

    @property
    def crops(self) -> bool:
        """Whether it was trained on crops, and so wants a box with every picture."""
        return self.policy.uses_boxes

    def predict(self, picture: Source, box: Box | None = None, top: int = 5) -> Prediction:
        """What it says of one picture: a path, the bytes of a file, a PIL image, an (H, W, 3) array or a (3, H, W)
        tensor of uint8. Raises ImageError for what is no picture, UserError for a box that is none."""
        read = self.read(picture, box)
        if isinstance(read, Unread):
            raise ImageError(f"{read.name}: {read.error}")
        return self.answer([read], top)[0]

    def predict_all(
        self, pictures: Iterable[tuple[Source, Box | None]], top: int = 5, batch: int = 8, shrink: int = 0,
        layer: bool = False,
    ) -> Iterator[tuple[Picture | Unread, Prediction]]:  # fmt: skip
        """Of many pictures, in their order, with what was read of each; one that cannot be read has an error. shrink,
        layer: as in `read`."""
        rest = iter(pictures)
        while chunk := [self.read(source, box, shrink, layer) for source, box in islice(rest, batch)]:
            answers = iter(self.answer([read for read in chunk if isinstance(read, Picture)], top))
            for read in chunk:
                yield read, Prediction(read.name, error=read.error) if isinstance(read, Unread) else next(answers)

    def read(
        self, source: Source, box: Box | None = None, shrink: int = 0, layer: bool = False
    ) -> Picture | Unread:  # fmt: skip
        """A picture as the network takes it, its short side shrunk to so many pixels first.

        box: in pixels of the upright picture; with `layer`, of a boxes layer, in those of the shrunk one. Raises
        UserError for a box that is none; one of a layer, which the caller did not draw, makes the picture unread.
        """
        name = printable(str(source)) if isinstance(source, str | Path) else "picture"
        try:
            pixels, scale = open_picture(source, shrink)
        except ImageError as error:
            return Unread(name, printable(str(error)))
        if thin := _thin(pixels):
            return Unread(name, thin)
        height, width = pixels.shape[1:]
        upright = round(width / scale[0]), round(height / scale[1])
        if box is None and self.finder is not None:
            box, layer = self.finder.best(pixels, self.policy.min_score), True
        box = box if self.crops else None
        shown = None
        if box is not None:
            try:
                box = _inside(box, *((width, height) if layer else upright))
            except UserError as error:
                if layer:
                    return Unread(name, str(error))
                raise UserError(f"{name}: {error}") from None
            back = 1 / scale[0], 1 / scale[1]
            box, shown = (box, _scaled(box, back)) if layer else (_scaled(box, scale), box)
        views = views_of_one(self.policy, box, width, height)
        parts = [view.cut(pixels, 0) for view in views]
        if thin := "".join(map(_thin, parts)):
            return Unread(name, thin)
        # The last view is the one that is cut; a picture without a box is fitted as the cut ones are, as in evaluation.
        cut = [self.crops and view is views[-1] for view in views]
        inputs = tuple(
            eval_transform(self.image, self.size, cut=is_cut, crop=crop)(part)
            for (part, is_cut), crop in product(zip(parts, cut, strict=True), range(self.image.eval_crops))
        )
        return Picture(name, pixels, *upright, shown, views, inputs)

    def answer(self, pictures: Sequence[Picture], top: int = 5) -> list[Prediction]:
        """Predictions of pictures that were read. Raises UserError for outputs that are not finite."""
        if not pictures:
            return []
        logits = self._logits(pictures)
        if not np.isfinite(logits).all():
            raise UserError(f"{self.weights}: the network's outputs are not finite; its weights diverged in training")
        found = []
        for picture, row in zip(pictures, logits, strict=True):
            probabilities = softmax(row.astype(np.float64) / (self.temperature or 1.0))
            best = np.argsort(-row, kind="stable")[:top].tolist()
            answers = tuple(Answer(self.classes[label], float(probabilities[label])) for label in best)
            calibrated, size = self.temperature is not None, (picture.width, picture.height)
            found.append(Prediction(picture.name, *size, picture.box, row, probabilities, answers, calibrated))
        return found

    @torch.inference_mode()
    def _logits(self, pictures: Sequence[Picture]) -> np.ndarray:
        """(N, classes), the mean over views and, where it was measured so, over mirror images."""
        views = []
        for inputs in zip(*(picture.inputs for picture in pictures), strict=True):
            images = torch.stack(inputs).to(self.device)
            logits = self.model(images).float()
            if self.image.eval_flip:
                logits = (logits + self.model(images.flip(3)).float()) / 2
            views.append(logits.cpu().numpy())
        return np.mean(views, axis=0)


def _thin(pixels: Tensor) -> str:
    """Why a picture, or what a box keeps of it, is too thin to be read; empty for usual ones."""
    height, width = pixels.shape[1:]
    if max(height, width) <= THIN * min(height, width):
        return ""
    return f"{width} x {height} pixels: one side is more than {THIN} times the other"


def _scaled(box: Box, factors: tuple[float, float]) -> Box:
    (x0, y0, x1, y1), (x, y) = box, factors
    return x0 * x, y0 * y, x1 * x, y1 * y


def _inside(box: Box, width: int, height: int) -> Box:
    """A box clipped to its picture. Raises UserError for one that holds no pixel of it."""
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        raise UserError("a box is four numbers, x0, y0, x1, y1, in pixels") from None
    clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):  # nan fails too
        raise UserError(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) holds no pixel of the picture of {width} x {height}")
    return clipped
