"""Whether a map comes from what the network learnt: weights are randomised from the classifier down (Adebayo et al.
2018, https://arxiv.org/abs/1810.03292), and maps compared with those before.

Maps are compared before their ReLU where the method has one and the map is at hand: after it a map of a randomised
network is often zero everywhere, which has no order that could be compared.
"""

import copy
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from fgvc.explanation.cam import SIGNED, signed_cam
from fgvc.explanation.explainers import contrast, explainer, runners_up
from fgvc.explanation.subject import Subject, enlarge
from fgvc.models.layers import classifier_names
from fgvc.models.normalised import Normalised
from fgvc.runtime.chunks import Arrays
from shards.errors import UserError

SHARES = (0.0, 0.5, 1.0)  # of the parameters below the classifier, from the top, that are randomised beside it
SIDE = 14  # maps are compared at this resolution: finer, bilinear enlargement would be most of what agrees


def randomised(subject: Subject, share: float, seed: int = 0, images: Tensor | None = None) -> Subject:
    """The classifier with the values of its head, and of the upper share of its other parameters, shuffled.

    Shuffled rather than drawn anew, so that every layer keeps the size of its weights. Batch normalisation then takes
    its statistics from `images` (N, 3, S, S) uint8: with those of the trained weights the new activations would
    be far from normal, and maps would die or blow up for that reason alone.
    """
    model = copy.deepcopy(subject.model)
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.model.named_parameters())
    total, reached = sum(parameter.numel() for _, parameter in parameters), 0
    head = {f"{name}.{key}" for name in classifier_names(model.model) for key in ("weight", "bias")}
    with torch.no_grad():
        for name, parameter in reversed(parameters):
            if name in head or reached < share * total:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
            reached += parameter.numel()
    changed = Subject(model, subject.size, subject.device)
    with suppress(UserError):  # a network without layers is only asked by methods that need none
        # The same layers are read, whatever the answer now depends on.
        changed.layers = [replace(layer, module=changed.network.get_submodule(layer.name)) for layer in subject.layers]
    if images is not None and len(images) > 1:
        _renormalise(model, changed.normalise(images))
    return changed


@torch.no_grad()
def _renormalise(model: Normalised, inputs: Tensor) -> None:
    """Give every batch normalisation the mean and variance of these inputs (N, 3, S, S), normalised."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches, of which there is one
        norm.train()
    if norms:
        model.model(inputs)
    model.eval()


def small(maps: Tensor) -> np.ndarray:
    """(N, SIDE * SIDE): maps (N, h, w) as they are compared."""
    return functional.adaptive_avg_pool2d(maps[:, None].float(), SIDE).flatten(1).numpy()


def rank_correlations(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N,): Spearman's correlation of every image's two maps (N, D); 1 for equal ones, NaN where one is flat."""
    flat = [np.ptp(maps, axis=1) == 0 for maps in (before, after)]
    return np.array([
        np.nan if a_flat or b_flat else float(spearmanr(a, b).statistic)
        for a, b, a_flat, b_flat in zip(before, after, *flat, strict=True)
    ])  # fmt: skip


def sanity(name: str, subjects: list[Subject], inputs: Tensor, classes: Tensor, entries: list[int]) -> Arrays:
    """name: (N, len(subjects) - 1) rank correlations of a method's maps by the trained network, the first, with those
    by every randomised one; name/small: the trained network's maps, as `small`."""
    others = runners_up(subjects[0].logits(inputs), classes.cpu())  # one question for all networks
    before, *after = [small(_compared(name, subject, inputs, classes, others, entries)) for subject in subjects]
    return {name: np.stack([rank_correlations(before, maps) for maps in after], axis=1), f"{name}/small": before}


def floor(maps: np.ndarray) -> np.ndarray:
    """(N,): |rank correlation| of the trained maps (N, D) of every image and the next: what maps of one method have in
    common that does not come from the image. Empty for a single image."""
    return np.abs(rank_correlations(maps, np.roll(maps, -1, axis=0))) if len(maps) > 1 else np.zeros(0)


def _compared(
    name: str, subject: Subject, inputs: Tensor, classes: Tensor, others: Tensor, entries: list[int]
) -> Tensor:
    """A method's maps, before the ReLU where they are at hand."""
    if name == "contrast":
        return contrast(subject, inputs, classes, others).cpu()
    if name in SIGNED:
        maps = signed_cam(name, subject, inputs.to(subject.device), classes.to(subject.device))
        return enlarge(maps, subject.size)
    return explainer(name, subject)(inputs, classes, entries)
