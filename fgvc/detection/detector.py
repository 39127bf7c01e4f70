"""A detector at work: its loss on a batch, its boxes in the pixels of the stored images, and its weights file.

`find_boxes` is the short way from a weights file to boxes; `fgvc detect`, `fgvc crop` and SAHI's slices all come here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fgvc.detection.config import DetectorConfig
from fgvc.detection.models import create_detector, load_detector
from fgvc.models.export import export, read_about
from fgvc.models.layers import eval_mode
from fgvc.runtime.device import autocast
from fgvc.runtime.distributed import gather_rows, rank, world_size
from fgvc.runtime.progress import with_progress
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.detection import BoxedBatch, BoxedSamples, collate_boxed, unletterbox
from shards.reading.detection_config import BoxedImageConfig
from shards.reading.loader import Place, eval_loader

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

if TYPE_CHECKING:
    from fgvc.training.learner import Objective

OBJECT = "object"  # the one class of a class-agnostic detector


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the best first. boxes: (K, 4) float32 xyxy pixels; scores, labels: (K,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def rows(self, score: float = 0.0) -> list[tuple[float, float, float, float, float]]:
        """(x0, y0, x1, y1, score) of the boxes that reach `score`."""
        kept = self.scores >= score
        return [(*map(float, box), float(s)) for box, s in zip(self.boxes[kept], self.scores[kept], strict=True)]  # type: ignore


class Detector(nn.Module):
    """An mmdet model fed with uint8 squares. forward: a BoxedBatch -> (loss, its parts by name)."""

    def __init__(self, model: nn.Module, channels_last: bool = True) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model: Any = model.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, batch: BoxedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        data = self._prepared(batch.images, batch.boxes, batch.labels, training=True)
        return self.model.parse_losses(self.model(**data, mode="loss"))

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Boxes (K, 4) in the squares' pixels, scores and labels (K,) of every image (N, 3, S, S), best first."""
        data = self._prepared(images, None, None, training=False)
        samples = self.model.predict(data["inputs"], data["data_samples"], rescale=False)
        found = [sample.pred_instances for sample in samples]
        orders = [image.scores.argsort(descending=True, stable=True) for image in found]
        return [(image.bboxes[o], image.scores[o], image.labels[o]) for image, o in zip(found, orders, strict=True)]

    def _prepared(
        self, images: torch.Tensor, boxes: list[torch.Tensor] | None, labels: list[torch.Tensor] | None, training: bool
    ) -> dict[str, Any]:
        """Normalised images (N, 3, S, S) and mmdet's own description of each."""
        size = tuple(images.shape[2:])
        samples = []
        for i in range(len(images)):
            sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
            if boxes is not None and labels is not None:
                sample.gt_instances = InstanceData(bboxes=boxes[i], labels=labels[i])
            samples.append(sample)
        data = self.model.data_preprocessor({"inputs": list(images.contiguous()), "data_samples": samples}, training)
        data["inputs"] = data["inputs"].contiguous(memory_format=self.layout)
        return data


def objective(device: torch.device) -> "Objective":
    """(Detector, BoxedBatch) -> (mean loss, its parts by name), as fgvc.training.loop asks for."""

    def loss(model: nn.Module, batch: BoxedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, parts = model(batch.to(device))
        return total, {key: value for key, value in parts.items() if key.startswith("loss_")}

    return loss


def class_names(config: DetectorConfig, manifest: Manifest) -> tuple[str, ...]:
    """The detector's classes on these shards."""
    return (OBJECT,) if config.class_agnostic else manifest.classes


def save_detector(path: Path, model: Any, config: DetectorConfig, classes: Sequence[str], size: int) -> None:
    """Write an mmdet model's weights as plain safetensors, with all that is needed to build it again beside them."""
    own = model.data_preprocessor
    mean, std = own.mean.flatten().tolist(), own.std.flatten().tolist()
    record = asdict(replace(config, weights="none", start="", mean=mean, std=std))
    state = {key: value.clone() for key, value in model.state_dict().items()}  # RTMDet shares convolutions by level
    export(path, state, {"detector": record, "classes": list(classes), "size": size})


def open_detector(path: Path) -> tuple[Detector, dict[str, Any]]:
    """The detector in a weights file of `save_detector`, and what the file records: detector, classes, size.

    Raises UserError for a file that does not describe its detector, or whose tensors do not fit that description.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; fgvc detect writes model.safetensors")
    about = read_about(path)
    if "detector" not in about:
        raise UserError(f"{path}: does not describe a detector; give a model.safetensors that fgvc detect wrote")
    known = DetectorConfig.__dataclass_fields__.keys()
    if set(about["detector"]) - known:
        raise UserError(f"{path}: written by another version (unknown: {', '.join(set(about['detector']) - known)})")
    model = create_detector(DetectorConfig(**about["detector"]), len(about["classes"]), backbone_weights=False)
    load_detector(model, path)
    return Detector(model).eval(), about


def detect(
    detector: Detector, manifest: Manifest, indices: Sequence[int], data: DataConfig, image: BoxedImageConfig, *,
    device: torch.device, precision: str = "fp32", workers: int = 0, batch: int = 16, title: str = "detect",
) -> dict[int, Detections]:  # fmt: skip
    """Entry -> what was found in it, for all `indices`, each seen by one rank; every rank gets all.

    Raises UserError when the ranks together did not see every image once.
    """
    loader = eval_loader(
        indices, BoxedSamples(manifest, data, image), batch=batch, place=Place(rank(), world_size()), workers=workers,
        collate=collate_boxed,
    )  # fmt: skip
    mine: list[tuple[int, Detections]] = []
    with eval_mode(detector):
        for squares in with_progress(loader, len(loader), title, "batches", show=rank() == 0):
            with autocast(device, precision):
                found = detector.predict(squares.images.to(device, non_blocking=True))
            for index, place, (corners, scores, labels) in zip(
                squares.entries.tolist(), squares.places, found, strict=True
            ):
                entry = manifest.entries[index]
                boxes = unletterbox(corners.float().cpu(), place, entry.width, entry.height).numpy()
                mine.append((index, Detections(boxes, scores.float().cpu().numpy(), labels.cpu().numpy())))
    together = _gathered(mine)
    if len(together) != len(indices) or {index for index, _ in together} != set(indices):
        raise UserError(f"{title}: {len(together)} samples came back, expected {len(indices)}, each once")
    return dict(sorted(together, key=lambda row: row[0]))


def _gathered(mine: Sequence[tuple[int, Detections]]) -> list[tuple[int, Detections]]:
    """All ranks' rows, exchanged as arrays."""
    indices = gather_rows(torch.tensor([index for index, _ in mine], dtype=torch.int64)).tolist()
    counts = gather_rows(torch.tensor([len(found.scores) for _, found in mine], dtype=torch.int64)).tolist()
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    every = [none, *(found for _, found in mine)]
    boxes, scores, labels = (
        np.split(gather_rows(torch.from_numpy(np.concatenate(column))).numpy(), np.cumsum(counts)[:-1])
        for column in ([f.boxes for f in every], [f.scores for f in every], [f.labels for f in every])
    )
    return [(index, Detections(*row)) for index, *row in zip(indices, boxes, scores, labels, strict=True)]


def find_boxes(
    weights: Path, manifest: Manifest, indices: Sequence[int], *, device: torch.device, data: DataConfig | None = None,
    score: float = 0.05, precision: str = "fp32", workers: int = 0, batch: int = 16, title: str = "detect",
) -> dict[str, list[tuple[float, float, float, float, float]]]:  # fmt: skip
    """Sample key -> (x0, y0, x1, y1, score) of every box that reaches `score`, best first, pixels of the stored image.

    weights: a model.safetensors of `fgvc detect`. indices: positions in the manifest; all ranks give the same ones and
    get the same answer. An image where nothing was found has an empty list. Raises UserError as `open_detector` does.
    """
    detector, about = open_detector(weights)
    found = detect(
        detector.to(device), manifest, indices, data or DataConfig(), BoxedImageConfig(size=about["size"]),
        device=device, precision=precision, workers=workers, batch=batch, title=title,
    )  # fmt: skip
    return {manifest.entries[index].key: detections.rows(score) for index, detections in found.items()}
