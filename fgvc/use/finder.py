"""Boxes for pictures that are in no shards, by a detector that `fgvc detect` trained."""

from pathlib import Path

import torch
from torch import Tensor

from fgvc.detection.detector import open_detector
from shards.reading.detection import letterbox, unletterbox
from shards.sample import Box


class Finder:
    """A detector's best box in a picture."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        detector, about = open_detector(weights)
        self.detector, self.size, self.device = detector.to(device), about["size"], device

    def best(self, pixels: Tensor, least: float) -> Box | None:
        """The box with the highest score of a (3, H, W) picture, in its pixels; None below the score `least`."""
        square = letterbox(pixels, (), self.size)
        ((corners, scores, _),) = self.detector.predict(square.image[None].to(self.device))
        if not len(scores) or float(scores[0]) < least:
            return None
        height, width = pixels.shape[1:]
        found = unletterbox(corners[:1].float().cpu(), square.place, width, height)[0].tolist()
        x0, y0, x1, y1 = (round(corner, 2) for corner in found)  # as in a layer: a crop's edge is rounded outwards
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
