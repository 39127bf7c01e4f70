"""Scores that change the image by a map and ask the classifier again: insertion, deletion, ROAD."""

from collections.abc import Callable

import numpy as np
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor

from fgvc.explanation.explainers import blurred
from fgvc.explanation.subject import Subject

STEPS = 14  # between none and all of an image's pixels
PERCENTILES = [20, 50, 80]  # of ROAD


def insertion_deletion(subject: Subject, image: Tensor, map_: Tensor, label: int) -> tuple[float, float]:
    """(insertion, deletion) of one normalised image (3, S, S): the mean probability of `label` while pixels come into
    the blurred image, or turn grey, in the map's order (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421).

    Insertion is better the larger, deletion the smaller.
    """
    order = removal_order(map_)
    base = blurred(image[None])[0]
    grey = torch.zeros_like(image)
    steps = torch.arange(STEPS + 1)[:, None, None, None] / STEPS
    changed = (order[None, None] < steps * order.numel()).to(image.device)  # (steps, 1, S, S)
    inserted, deleted = torch.where(changed, image, base), torch.where(changed, grey, image)
    chances = torch.softmax(subject.logits(torch.cat([inserted, deleted])), 1)[:, label]
    curves = [torch.trapezoid(curve, dx=1 / STEPS).item() for curve in chances.split(STEPS + 1)]
    return curves[0], curves[1]


def removal_order(map_: Tensor) -> Tensor:
    """(S, S): every pixel's place in the order from the largest value; equal values in an order drawn once."""
    shuffled = torch.randperm(map_.numel(), generator=torch.Generator().manual_seed(0))
    order = shuffled[torch.argsort(map_.flatten()[shuffled], descending=True, stable=True)]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places.view(map_.shape)


def road(subject: Subject, image: Tensor, map_: Tensor, label: int) -> float:
    """ROAD (Rong et al. 2022, https://arxiv.org/abs/2202.00449), combined: half of how much more the probability falls
    without the most than without the least important pixels, filled in linearly; larger is better. Draws from torch's
    generator.

    The library removes what lies above a percentile, which of a map with ties (zeros) can be all of it: it is given
    ranks, so that exactly the share that is asked for goes.
    """
    ranks = 1 - removal_order(map_).float() / map_.numel()
    measure: Callable = ROADCombined(percentiles=PERCENTILES)
    targets = [ClassifierOutputSoftmaxTarget(label)]
    found = measure(image[None], ranks[None].numpy(), targets, subject.network)
    return float(np.asarray(found).reshape(-1)[0])
