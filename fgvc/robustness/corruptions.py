"""Common corruptions in five strengths, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261): own code,
the same for an image whatever batch it is in. Blur is that of 224 px images, scaled by the root of the image's side.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from fgvc.robustness.attacked import jpeg

Corruption = Callable[[torch.Tensor, int, np.random.Generator], torch.Tensor]
STRENGTHS = 5
REFERENCE = 224


def corrupted(name: str, images: torch.Tensor, strength: int, seeds: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N, 3, H, W) pixels in [0, 1] under the corruption `name` of `CORRUPTIONS`; strength 1 to 5; seeds: whole numbers
    for every image, such as (seed, entry)."""
    apply = CORRUPTIONS[name]
    rows = [
        apply(image, strength - 1, np.random.default_rng(list(seed))) for image, seed in zip(images, seeds, strict=True)
    ]
    return torch.stack(rows).clamp(0, 1)


def _noise(image: torch.Tensor, level: int, draw: np.random.Generator) -> torch.Tensor:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return image + deviation * torch.from_numpy(draw.standard_normal(image.shape, dtype=np.float32)).to(image)


def _blur(image: torch.Tensor, level: int, draw: np.random.Generator) -> torch.Tensor:
    sigma = (1.0, 2.0, 3.0, 4.0, 6.0)[level] * (image.shape[-1] / REFERENCE) ** 0.5
    reach = min(max(1, round(4 * sigma)), min(image.shape[1:]) - 1)
    return functional.gaussian_blur(image, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def _jpeg(image: torch.Tensor, level: int, draw: np.random.Generator) -> torch.Tensor:
    return jpeg(image[None], (25, 18, 15, 10, 7)[level])[0]


def _brightness(image: torch.Tensor, level: int, draw: np.random.Generator) -> torch.Tensor:
    """The value of HSV, the largest channel, raised; hue and saturation stay."""
    value = image.amax(0, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp_max(1)
    return torch.where(value > 0, image / value.clamp_min(1e-6) * raised, raised.expand_as(image))


def _fog(image: torch.Tensor, level: int, draw: np.random.Generator) -> torch.Tensor:
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    height, width = image.shape[1:]
    side = 2 ** int(np.ceil(np.log2(max(height, width))))
    cloud = torch.from_numpy(plasma(side, decay, draw)[:height, :width]).to(image)
    brightest = image.amax()
    return (image + amount * cloud) * brightest / (brightest + amount)


def plasma(side: int, decay: float, draw: np.random.Generator) -> np.ndarray:
    """(side, side) float32 in [0, 1]: a cloud by the diamond-square method on a torus. side: a power of two; decay:
    ImageNet-C's wibbledecay. There, a draw's amplitude is wibble ** 2, so detail shrinks by decay ** 2 a halving."""
    cloud = np.zeros((side, side))
    step, rough = side, 1.0
    while step > 1:
        half = step // 2
        corners = cloud[::step, ::step]
        below, right = np.roll(corners, -1, 0), np.roll(corners, -1, 1)
        centres = (corners + below + right + np.roll(below, -1, 1)) / 4
        cloud[half::step, half::step] = centres + rough * draw.uniform(-1, 1, centres.shape)
        centres = cloud[half::step, half::step]
        across = (corners + right + centres + np.roll(centres, 1, 0)) / 4
        down = (corners + below + centres + np.roll(centres, 1, 1)) / 4
        cloud[::step, half::step] = across + rough * draw.uniform(-1, 1, across.shape)
        cloud[half::step, ::step] = down + rough * draw.uniform(-1, 1, down.shape)
        step, rough = half, rough / decay**2
    cloud -= cloud.min()
    return (cloud / max(cloud.max(), 1e-12)).astype(np.float32)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise, "blur": _blur, "jpeg": _jpeg, "brightness": _brightness, "fog": _fog,
}  # fmt: skip
