"""Gradient attacks as plain functions: FGSM, PGD, MI-FGSM, and random starts that depend on the sample alone.

Everywhere: images (N, 3, H, W) float in [0, 1]; model: such images -> logits (N, classes), normalisation inside;
loss: logits -> (N,), what the attack makes larger. An image's perturbation depends on that image only (losses are
summed, not averaged), so a batch may be cut anywhere. Run attacks in fp32 and with the model in evaluation mode.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

Model = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor], torch.Tensor]
Norm = Literal["linf", "l2"]


def away_from(labels: torch.Tensor) -> Loss:
    """The loss of an untargeted attack: cross-entropy against the true labels (N,)."""
    return lambda logits: functional.cross_entropy(logits, labels, reduction="none")


def towards(targets: torch.Tensor) -> Loss:
    """The loss of a targeted attack: minus the cross-entropy against the classes (N,) that are aimed at."""
    return lambda logits: -functional.cross_entropy(logits, targets, reduction="none")


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,): the best other logit minus the label's; positive where the image is taken for another class."""
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return other - own


def gradient(model: Model, images: torch.Tensor, loss: Loss, draws: int = 1) -> torch.Tensor:
    """The loss's gradient by the images' pixels, (N, 3, H, W). Parameters' own gradients stay untouched.

    draws: of a model that is random (noise in its input, dropout) the mean over so many passes (expectation over
    transformation, Athalye et al. 2018, arXiv:1802.00420).
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        total = torch.stack([loss(model(images)).sum() for _ in range(draws)]).sum()
        return torch.autograd.grad(total, images)[0] / draws


def fgsm(
    model: Model, images: torch.Tensor, loss: Loss, epsilon: float, *, norm: Norm = "linf",
    start: torch.Tensor | None = None, step_size: float | None = None, draws: int = 1,
) -> torch.Tensor:  # fmt: skip
    """One step of size epsilon along the gradient's sign (Goodfellow et al. 2015, arXiv:1412.6572); l2: its direction.

    start: images to begin from, such as `random_start`'s; with step_size 1.25 epsilon this is the fast training
    attack of Wong et al. 2020 (arXiv:2001.03994).
    """
    size = epsilon if step_size is None else step_size
    return pgd(model, images, loss, epsilon, norm=norm, steps=1, step_size=size, start=start, draws=draws)


def pgd(
    model: Model, images: torch.Tensor, loss: Loss, epsilon: float, *, norm: Norm = "linf", steps: int = 10,
    step_size: float | None = None, start: torch.Tensor | None = None, momentum: float = 0.0, draws: int = 1,
) -> torch.Tensor:  # fmt: skip
    """Projected gradient ascent from `start` (default: the images), (N, 3, H, W); Madry et al. 2018, arXiv:1706.06083.

    Every result is within epsilon of its image in `norm` and within [0, 1]. step_size: default 2.5 epsilon / steps, so
    that any point of the ball can be reached. momentum: above 0 it is MI-FGSM (Dong et al. 2018, arXiv:1710.06081),
    customary with 1.0, step_size epsilon / steps and no random start. draws: as in `gradient`.
    """
    size = 2.5 * epsilon / steps if step_size is None else step_size
    images = images.detach()
    found = images if start is None else project(start, images, epsilon, norm)
    velocity = torch.zeros_like(images)
    for _ in range(steps):
        slope = gradient(model, found, loss, draws)
        if momentum:
            scale = slope.abs().mean((1, 2, 3), keepdim=True)
            slope = velocity = momentum * velocity + slope / scale.clamp_min(torch.finfo(slope.dtype).tiny)
        found = project(found + size * _direction(slope, norm), images, epsilon, norm)
    return found


def project(found: torch.Tensor, images: torch.Tensor, epsilon: float, norm: Norm) -> torch.Tensor:
    """The nearest point within epsilon of the images, then within [0, 1]; the second never leaves the ball."""
    change = found - images
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        length = change.flatten(1).norm(dim=1).clamp_min(torch.finfo(change.dtype).tiny)
        change = change * (epsilon / length).clamp_max(1).view(-1, 1, 1, 1)
    return (images + change).clamp(0, 1)


def random_start(images: torch.Tensor, epsilon: float, norm: Norm, seeds: Sequence[Sequence[int]]) -> torch.Tensor:
    """A uniform draw from the ball around every image, (N, 3, H, W), clipped to [0, 1].

    seeds: whole numbers >= 0 for every image, such as (seed, entry, restart): the draw depends on nothing else, so
    batches, ranks and workers do not matter.
    """
    shape, size = images.shape[1:], images[0].numel()
    drawn = np.empty((len(images), *shape), dtype=np.float32)
    for row, seed in zip(drawn, seeds, strict=True):
        generator = np.random.default_rng(list(seed))
        if norm == "linf":
            row[:] = generator.uniform(-1, 1, shape)
        else:
            normal = generator.standard_normal(shape)
            row[:] = normal / np.linalg.norm(normal) * generator.uniform() ** (1 / size)
    return project(images + epsilon * torch.from_numpy(drawn).to(images), images, epsilon, norm)


def strongest(model: Model, candidates: Iterable[torch.Tensor], score: Loss) -> torch.Tensor:
    """Of several versions of every image the one whose logits score highest, the first of equals; as for restarts:
    `strongest(model, (pgd(..., start=...) for each restart), lambda logits: margin(logits, labels))`."""
    best, best_score = torch.empty(0), torch.empty(0)
    for number, images in enumerate(candidates):
        with torch.no_grad():
            found = score(model(images))
        if number == 0:
            best, best_score = images, found
        better = found > best_score
        best = torch.where(better.view(-1, 1, 1, 1), images, best)
        best_score = torch.where(better, found, best_score)
    return best


def _direction(slope: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The steepest unit step: the sign, or the normalised gradient (zero where there is none)."""
    if norm == "linf":
        return slope.sign()
    length = slope.flatten(1).norm(dim=1).clamp_min(torch.finfo(slope.dtype).tiny)
    return slope / length.view(-1, 1, 1, 1)
