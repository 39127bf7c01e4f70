"""Every method by name, behind one signature."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from fgvc.explanation.attention import attention_blocks, relevance, rollout
from fgvc.explanation.cam import LIBRARY, cam, gradient_cam, library_cam
from fgvc.explanation.config import BASELINES, METHODS
from fgvc.explanation.subject import Subject, enlarge
from shards.errors import UserError

# inputs (N, 3, size, size) normalised, classes (N,), entries (N,): the images' places in the manifest
# -> (N, size, size) maps on the CPU, 0 or larger, larger where the class's evidence is
Explainer = Callable[[Tensor, Tensor, list[int]], Tensor]
# the same of these classes and not the others: inputs, classes, others (N,), entries
Versus = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]
PAIRWISE = ("contrast", "finercam")  # explain why a class and not another
NOISE = 7  # side of the grid that `random` draws
STEPS = 16  # of the path of integrated gradients
LEAST_EMPTY = 4  # images, of which all maps are zero, are no chance
PATCHES = 14  # occlusion: windows are a seventh of the side, moved by half of that


def explainer(name: str, subject: Subject, seed: int = 0) -> Explainer:
    """A method. Raises UserError where the network has nothing for it to read; `oracle` is made by its data set."""
    if name in ("rollout", "relevance"):
        attention_blocks(subject.network)
    elif name not in ("gradients", "occlusion", *BASELINES):
        _ = subject.layers
    if name == "cam" and not hasattr(subject.network, "forward_features"):
        raise UserError(f"method=cam: {type(subject.network).__name__} has no map of a class; take layercam")
    return lambda inputs, classes, entries: _maps(name, subject, inputs, classes, entries, seed).float().cpu()


def applicable(subject: Subject) -> list[str]:
    """All methods that this network has something for, baselines left out."""
    return [name for name in METHODS if name not in BASELINES and _applies(name, subject)]


def _applies(name: str, subject: Subject) -> bool:
    try:
        explainer(name, subject)
    except UserError:
        return False
    return True


def _maps(name: str, subject: Subject, inputs: Tensor, classes: Tensor, entries: list[int], seed: int) -> Tensor:
    inputs, classes = inputs.to(subject.device), classes.to(subject.device)
    if name == "random":
        seeds = zip(entries, classes.tolist(), strict=True)
        return torch.stack([noise((seed, entry, label), subject.size) for entry, label in seeds])
    if name == "centre":
        return centre(subject.size).expand(len(entries), -1, -1)
    if name == "cam":
        return cam(subject, inputs, classes)
    if name == "contrast":
        return contrast(subject, inputs, classes, runners_up(subject.logits(inputs), classes.cpu())).clamp_min(0)
    if name == "rollout":
        return rollout(subject, inputs, classes)
    if name == "relevance":
        return relevance(subject, inputs, classes)
    if name == "gradients":
        return integrated_gradients(subject, inputs, classes)
    if name == "occlusion":
        return occlusion(subject, inputs, classes)
    assert name in LIBRARY, name
    return library_cam(name, subject, inputs, classes)


def versus(name: str, subject: Subject) -> Versus:
    """One of PAIRWISE, of a class against one other that is given rather than found."""
    if name == "finercam":
        return lambda inputs, classes, others, entries: library_cam(
            name, subject, inputs.to(subject.device), classes.to(subject.device), others
        )
    return lambda inputs, classes, others, entries: contrast(subject, inputs, classes, others).clamp_min(0).cpu()


def contrast(subject: Subject, inputs: Tensor, classes: Tensor, others: Tensor) -> Tensor:
    """Why these classes and not the others: (N, size, size), positive where the image speaks for `classes`, negative
    where it speaks for `others`; gradient times activation of the logits' difference, of the last two resolutions."""
    ours, theirs = classes.to(subject.device)[:, None], others.to(subject.device)[:, None]
    maps = gradient_cam(
        subject.layers[:2], subject.network, inputs.to(subject.device),
        lambda logits: logits.gather(1, ours) - logits.gather(1, theirs),
    )  # fmt: skip
    scaled = [part / part.abs().amax((1, 2), keepdim=True).clamp_min(1e-12) for part in maps]
    return torch.stack([enlarge(part, subject.size) for part in scaled]).mean(0)


def runners_up(logits: Tensor, classes: Tensor) -> Tensor:
    """(N,): the most probable class other than `classes`."""
    return logits.scatter(1, classes[:, None], -math.inf).argmax(1)


def integrated_gradients(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """From the image blurred beyond recognition: from a black one, dark parts would be nothing."""
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        parts = [
            IntegratedGradients(subject.network).attribute(
                image[None], blurred(image[None]), target=int(label), n_steps=STEPS, internal_batch_size=STEPS
            )
            for image, label in zip(inputs, classes, strict=True)
        ]
    return torch.cat(parts).detach().sum(1).abs().cpu()


def occlusion(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """The fall of the class's logit when a window is mean grey, where it falls."""
    from captum.attr import Occlusion

    stride = max(1, subject.size // PATCHES)
    with torch.no_grad():
        found = Occlusion(subject.network).attribute(
            inputs, (3, 2 * stride, 2 * stride), (3, stride, stride), baselines=0, target=classes,
            perturbations_per_eval=8,
        )  # fmt: skip
    return found.sum(1).clamp_min(0).cpu()


def blurred(inputs: Tensor) -> Tensor:
    """Images (N, 3, H, W) without what tells one bird from another."""
    side = inputs.shape[-1]
    return gaussian_blur(inputs, [side // 8 * 2 + 1] * 2, [side / 12] * 2)


def noise(seed: tuple[int, ...], size: int) -> Tensor:
    """(size, size) smooth noise in 0 to 1, the same for the same seed; its maximum is equally often at any pixel.

    The noise has no edges: it goes on where it ends and is moved by a drawn distance. Of a grid that is enlarged to the
    image half of the cells are at its edge, where an object is less often than elsewhere.
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    grid, (down, right) = random.random((NOISE, NOISE)), random.integers(size, size=2)
    places = np.arange(size) * NOISE / size
    before, share = places.astype(int), places - places.astype(int)
    mix = np.zeros((size, NOISE))
    mix[np.arange(size), before] = 1 - share
    mix[np.arange(size), (before + 1) % NOISE] = share
    return torch.from_numpy(np.roll(mix @ grid @ mix.T, (down, right), (0, 1))).float()


def centre(size: int) -> Tensor:
    """(size, size): a Gaussian of a quarter of the side in the middle."""
    places = (torch.arange(size) + 0.5 - size / 2) / (size / 4)
    line = torch.exp(-(places**2) / 2)
    return line[:, None] * line[None]


def check_finite(name: str, subject: Subject, maps: Tensor) -> None:
    """Raise UserError when a map is not finite."""
    if not maps.isfinite().all():
        raise UserError(f"{_where(name, subject)} is not finite")


def check_empty(name: str, subject: Subject, empty: np.ndarray) -> None:
    """Raise UserError when the maps of all images are zero: a layer that does not explain.

    empty: (N,), of all images of a run. A few maps may well be zero: of a class that nothing in the image speaks for.
    """
    if len(empty) >= LEAST_EMPTY and empty.all():
        raise UserError(f"{_where(name, subject)} is zero for all of {len(empty)} images; choose another method")


def _where(name: str, subject: Subject) -> str:
    return f"methods: {name}" + ("" if name in BASELINES else f": the map of layer {subject.layers[0].name}")
