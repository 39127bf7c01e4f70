"""Small objects in large images: SAHI cuts the image into slices, our detector runs on each, SAHI joins the boxes.

Method: Slicing Aided Hyper Inference (https://arxiv.org/abs/2202.06934).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from fgvc.detection.detector import Detections, Detector, open_detector
from fgvc.runtime.distributed import gather_objects, rank, world_size
from fgvc.runtime.progress import with_progress
from shards.manifest import Manifest
from shards.reading.decode import decode
from shards.reading.detection import letterbox, unletterbox
from shards.reading.reader import Reader


class SahiDetector(DetectionModel):
    """A Detector as SAHI expects it: (H, W, 3) uint8 RGB arrays in, ObjectPredictions out.

    size: side in pixels of the square that every slice is scaled into. classes: names by label.
    """

    def __init__(
        self, detector: Detector, classes: list[str], size: int, device: torch.device, score: float = 0.05
    ) -> None:
        self.side = size
        names = {str(label): name for label, name in enumerate(classes)}
        super().__init__(
            model=detector, device=str(device), confidence_threshold=score, category_mapping=names, image_size=size
        )

    def set_model(self, model: Any, **kwargs: Any) -> None:
        self.model = model.to(self.device).eval()

    def perform_inference(self, image: np.ndarray) -> None:
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        pixels = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) for image in images]
        squares = [letterbox(image, (), self.side) for image in pixels]
        found = self.model.predict(torch.stack([square.image for square in squares]).to(self.device))
        self._original_predictions = [
            (
                unletterbox(boxes.float().cpu(), square.place, image.shape[2], image.shape[1]),
                scores.cpu(),
                labels.cpu(),
            )
            for (boxes, scores, labels), square, image in zip(found, squares, pixels, strict=True)
        ]

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = [[0, 0]],  # noqa: B006  as in SAHI's own
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        predictions = self._original_predictions
        # SAHI gives one pair or a list of pairs.
        shifts = np.array(shift_amount_list or [[0, 0]], dtype=int).reshape(-1, 2).tolist()
        shapes = [None] if full_shape_list is None else np.array(full_shape_list, dtype=int).reshape(-1, 2).tolist()
        if len(shapes) < len(predictions):
            shapes = shapes * len(predictions)
        names = self.category_mapping or {}
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=box, category_id=label, category_name=names[str(label)], score=score, shift_amount=shift,
                    full_shape=shape,
                )
                for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
                if score >= self.confidence_threshold and box[2] - box[0] >= 1 and box[3] - box[1] >= 1
            ]
            for (boxes, scores, labels), shift, shape in zip(predictions, shifts, shapes, strict=True)
        ]  # fmt: skip


def find_in_slices(model: SahiDetector, image: torch.Tensor, side: int, overlap: float = 0.2) -> Detections:
    """What is found in slices of `side` pixels of an image (3, H, W) uint8, and in the whole of it, joined.

    overlap: share of a slice that the next one repeats; an object should fit into it to be seen whole in one slice.
    """
    # SAHI's own choice, made here because it warns of it for every image: merging makes chains of many weak boxes.
    join, metric = ("NMS", "IOU") if model.confidence_threshold < 0.1 else ("GREEDYNMM", "IOS")
    limit = Image.MAX_IMAGE_PIXELS  # which SAHI lifts, for good, for whatever the process opens afterwards
    try:
        result = get_sliced_prediction(
            image.permute(1, 2, 0).numpy(), model, slice_height=side, slice_width=side, overlap_height_ratio=overlap,
            overlap_width_ratio=overlap, postprocess_type=join, postprocess_match_metric=metric, verbose=0,
            batch_size=8,
        )  # fmt: skip
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    found = sorted(result.object_prediction_list, key=lambda prediction: -prediction.score.value)
    return Detections(
        np.array([prediction.bbox.to_xyxy() for prediction in found], dtype=np.float32).reshape(-1, 4),
        np.array([prediction.score.value for prediction in found], dtype=np.float32),
        np.array([prediction.category.id for prediction in found], dtype=np.int64),
    )


def find_boxes_in_slices(
    weights: Path, manifest: Manifest, indices: Sequence[int], *, device: torch.device, side: int, overlap: float = 0.2,
    score: float = 0.05, cache: str = "", title: str = "slices",
) -> dict[str, list[tuple[float, float, float, float, float]]]:  # fmt: skip
    """As `detector.find_boxes`, but every image is looked at in slices of `side` pixels and as a whole."""
    detector, about = open_detector(weights)
    model = SahiDetector(detector, about["classes"], about["size"], device, score)
    reader, mine = Reader(manifest, cache), dict[str, list[tuple[float, float, float, float, float]]]()
    own = indices[rank() :: world_size()]
    for index in with_progress(own, len(own), title, "images", show=rank() == 0):
        image = decode(reader.read(index), manifest.entries[index].key)
        mine[manifest.entries[index].key] = find_in_slices(model, image, side, overlap).rows(score)
    return {key: rows for part in gather_objects(mine) for key, rows in part.items()}
