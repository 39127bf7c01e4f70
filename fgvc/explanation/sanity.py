"""Whether a map comes from what the network learnt: weights are randomised from the classifier down (Adebayo et al.
2018, https://arxiv.org/abs/1810.03292), and maps compared with those before."""

import copy

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from fgvc.explanation.explainers import explainer
from fgvc.explanation.subject import Subject
from fgvc.models.layers import classifier_names

SHARES = (0.0, 0.5, 1.0)  # of the parameters below the classifier, from the top, that are randomised beside it
SIDE = 14  # maps are compared at this resolution: finer, bilinear enlargement would be most of what agrees


def randomised(subject: Subject, share: float, seed: int = 0) -> Subject:
    """The classifier with the values of its head, and of the upper share of its other parameters, shuffled.

    Shuffled rather than drawn anew, so that activations keep their size: a map that survives is not one that blew up.
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
    return Subject(model, subject.size, subject.device)


def rank_correlations(before: Tensor, after: Tensor) -> np.ndarray:
    """(N,): Spearman's correlation of every image's two (size, size) maps; 1 for equal ones, 0 where one is flat."""
    small = [functional.adaptive_avg_pool2d(maps[:, None], SIDE).flatten(1).numpy() for maps in (before, after)]
    flat = [np.ptp(maps, axis=1) == 0 for maps in small]
    return np.array([
        0.0 if a_flat or b_flat else float(spearmanr(a, b).statistic)
        for a, b, a_flat, b_flat in zip(*small, *flat, strict=True)
    ])  # fmt: skip


def sanity(name: str, subjects: list[Subject], inputs: Tensor, classes: Tensor, entries: list[int]) -> np.ndarray:
    """(N, len(subjects) - 1): rank correlation of a method's maps by the trained network, the first, with those by
    every randomised one."""
    before, *after = [explainer(name, subject)(inputs, classes, entries) for subject in subjects]
    return np.stack([rank_correlations(before, maps) for maps in after], axis=1)
