"""Images with boxes for a detector: scaled, flipped and placed in a square together with their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import ColorJitter, functional

from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.decode import decode
from shards.reading.detection_config import BoxedImageConfig
from shards.reading.handover import Handed, gathered
from shards.reading.order import transform_seed
from shards.reading.reader import Reader
from shards.reading.transforms import seeded
from shards.sample import Box

FILL = 114  # grey around an image that does not fill the square
TRIES = 10  # places drawn before a box may leave the view


@dataclass
class Boxed:
    """One image placed in a square.

    image: (3, S, S) uint8. boxes: (K, 4) float32 xyxy in the square; kept: (K,) int64, which of the image's boxes.
    place: (4,) float32 sx, sy, ox, oy: a source pixel (x, y) lies at (x * sx + ox, y * sy + oy).
    """

    image: torch.Tensor
    boxes: torch.Tensor
    kept: torch.Tensor
    place: torch.Tensor


@dataclass
class BoxedBatch(Handed):
    """images: (N, 3, S, S) uint8, channels_last. boxes, labels: of every image, (K, 4) float32 and (K,) int64. places:
    (N, 4). entries, epochs: (N,) int64; entries index the manifest."""

    images: torch.Tensor
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]
    places: torch.Tensor
    entries: torch.Tensor
    epochs: torch.Tensor

    def pin_memory(self) -> "BoxedBatch":
        """Called by the loader where there is a GPU, so that copies to it need not wait."""
        self.images = self.images.pin_memory()
        self.boxes = [boxes.pin_memory() for boxes in self.boxes]
        self.labels = [labels.pin_memory() for labels in self.labels]
        return self

    def to(self, device: torch.device) -> "BoxedBatch":
        self.images = self.images.to(device, non_blocking=True)
        self.boxes = [boxes.to(device) for boxes in self.boxes]
        self.labels = [labels.to(device) for labels in self.labels]
        return self


def letterbox(image: torch.Tensor, boxes: Sequence[Box], size: int, factor: float = 1.0) -> Boxed:
    """The whole image, its longer side `factor` * size, in the square's upper left corner; deterministic."""
    scaled, ratio = _scaled(image, size * factor)
    return _cut(scaled, _tensor(boxes), ratio, (0, 0), size, 0.0)


def random_letterbox(image: torch.Tensor, boxes: Sequence[Box], config: BoxedImageConfig) -> Boxed:
    """Flip, scale and place as `config` says, drawing from torch's global generator (see `seeded`).

    As large-scale jittering (https://arxiv.org/abs/2012.07177), but while a box is out of view another place is drawn,
    up to ten; of these the one with the most boxes in view is taken, and the others' boxes are left out.
    """
    truth = _tensor(boxes)
    flipped = bool(torch.rand(()) < config.flip)
    if flipped:
        image = image.flip(2)
        truth[:, [0, 2]] = image.shape[2] - truth[:, [2, 0]]
    if config.color_jitter:
        image = ColorJitter(config.color_jitter, config.color_jitter, config.color_jitter)(image)
    low, high = config.scale
    scaled, ratio = _scaled(image, config.size * (low + (high - low) * float(torch.rand(()))))
    height, width = scaled.shape[1:]
    boxed = None
    for _ in range(TRIES):
        corner = _corner(width, config.size), _corner(height, config.size)
        candidate = _cut(scaled, truth, ratio, corner, config.size, config.keep)
        if boxed is None or len(candidate.boxes) > len(boxed.boxes):
            boxed = candidate
        if len(boxed.boxes) == len(truth):
            break
    assert boxed is not None
    if flipped:  # the mirrored pixel x lies where W - x lay
        boxed.place = boxed.place * torch.tensor([-1.0, 1.0, 1.0, 1.0])
        boxed.place[2] += image.shape[2] * ratio[0]
    return boxed


def unletterbox(boxes: torch.Tensor, place: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Boxes (K, 4) of the square as boxes of the source image, clipped to it."""
    sx, sy, ox, oy = place.tolist()
    xs, ys = (boxes[:, [0, 2]] - ox) / sx, (boxes[:, [1, 3]] - oy) / sy
    xs, ys = xs.sort(1).values.clamp(0, width), ys.clamp(0, height)
    return torch.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], 1)


class BoxedSamples(Dataset):
    """(epoch, entry) -> a placed image and its label. epoch -1 means evaluation: no randomness."""

    def __init__(
        self, manifest: Manifest, data: DataConfig, config: BoxedImageConfig, seed: int = 0, one_class: bool = False
    ) -> None:
        """one_class: every box has label 0."""
        self.reader = Reader(manifest, data.cache)
        self.config, self.seed, self.one_class = config, seed, one_class
        self.eval_size = config.eval_size or config.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[Boxed, int, int, int]:
        epoch, index = key
        entry = self.reader.manifest.entries[index]
        image = decode(self.reader.read(index), entry.key)
        if epoch < 0:
            boxed = letterbox(image, entry.boxes, self.eval_size)
        else:
            seed = transform_seed(self.seed, epoch, index)
            boxed = seeded(lambda pixels: random_letterbox(pixels, entry.boxes, self.config), image, seed)  # type: ignore
        return boxed, 0 if self.one_class else entry.label, index, epoch


def collate_boxed(rows: list[tuple[Boxed, int, int, int]]) -> BoxedBatch:
    boxed, labels, entries, epochs = zip(*rows, strict=True)
    return BoxedBatch(
        gathered([sample.image for sample in boxed]),
        [sample.boxes for sample in boxed],
        [torch.full((len(sample.boxes),), label) for sample, label in zip(boxed, labels, strict=True)],
        torch.stack([sample.place for sample in boxed]),
        torch.tensor(entries),
        torch.tensor(epochs),
    )


def _tensor(boxes: Sequence[Box]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def _scaled(image: torch.Tensor, longer: float) -> tuple[torch.Tensor, tuple[float, float]]:
    """The image with its longer side at `longer` pixels, and the exact scale of x and y."""
    height, width = image.shape[1:]
    factor = longer / max(height, width)
    new = max(1, round(height * factor)), max(1, round(width * factor))
    return functional.resize(image, list(new), antialias=True), (new[1] / width, new[0] / height)


def _corner(length: int, size: int) -> int:
    """Where a side of `length` begins in the square: anywhere inside it, or anywhere that fills it."""
    low, high = min(0, size - length), max(0, size - length)
    return low + int(torch.randint(high - low + 1, ()))


def _cut(
    scaled: torch.Tensor, boxes: torch.Tensor, ratio: tuple[float, float], corner: tuple[int, int], size: int,
    keep: float,
) -> Boxed:  # fmt: skip
    """The square at `corner` of the scaled image, with the boxes of which a share of at least `keep` is in it."""
    (ox, oy), (height, width) = corner, scaled.shape[1:]
    square = torch.full((size, size, 3), FILL, dtype=torch.uint8).permute(2, 0, 1)  # as `gathered` lays them out
    x0, y0, x1, y1 = max(0, ox), max(0, oy), min(size, width + ox), min(size, height + oy)
    square[:, y0:y1, x0:x1] = scaled[:, y0 - oy : y1 - oy, x0 - ox : x1 - ox]
    place = torch.tensor([*ratio, ox, oy], dtype=torch.float32)
    whole = boxes * place[[0, 1, 0, 1]] + place[[2, 3, 2, 3]]
    shown = whole.clamp(0, size)
    share = _areas(shown) / _areas(whole).clamp(min=1e-6)
    kept = ((share >= keep) & (_areas(shown) > 0)).nonzero()[:, 0]
    return Boxed(square, shown[kept], kept, place)


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
