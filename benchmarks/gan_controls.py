"""What the figures of `fgvc gan` say of images whose worth is known: new ones, blurred ones, copies.

    FGVC_WEIGHTS=... .venv/bin/python benchmarks/gan_controls.py                        the field guide, 64 px
    FGVC_WEIGHTS=... .venv/bin/python benchmarks/gan_controls.py configs/gan/cub50.yaml model.size=64 measure.size=128

Compared with the training images as a run of that config compares its generator's: other real images of the same kind
(the test split, with as many training images), real training images after a Gaussian blur, training images as they are,
and these shifted and made a little brighter, which no file comparison would find.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional

from fgvc.generation.features import create_features, feature_title
from fgvc.generation.measure import describe, eval_image, real_features
from fgvc.generation.metrics import Described, compare, memorised
from jobs.config import load_job
from jobs.inputs import open_shards
from shards.reading.loader import Samples
from shards.reading.splits import open_splits
from shards.reading.views import open_views, train_policy

BLURS = (1.0, 2.0)  # standard deviation in pixels
CPU = torch.device("cpu")


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return functional.gaussian_blur(images, [2 * round(3 * sigma) + 1] * 2, [sigma] * 2)


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Two pixels to the left, and an eighth brighter."""
    return (torch.roll(images, -2, 3).float() * 1.125).clamp(0, 255).to(torch.uint8)


def main(words: list[str]) -> None:
    config = load_job("gan", words[0] if words else "configs/gan/field_guide.yaml", words[1:])
    manifest, size, image = open_shards(config.data), config.model.size, config.image
    splits = open_splits(manifest, config.data)
    (view,) = open_views(train_policy(config.data), manifest, [*splits.train, *splits.test])
    features = create_features(config.measure).eval()

    def pictures(indices: list[int]) -> torch.Tensor:
        samples = Samples(manifest, eval_image(image, size), [view])
        return torch.stack([samples[-1, index][0] for index in indices])

    def described(images: torch.Tensor) -> Described:
        with torch.inference_mode():
            parts = [describe(features, part) for part in images.split(config.measure.batch)]
        return Described(*(torch.cat([torch.from_numpy(one) for one in of]).numpy() for of in zip(*parts, strict=True)))

    real = pictures(splits.train)
    with tempfile.TemporaryDirectory() as folder:
        known = real_features(
            Path(folder), features, manifest, splits.train, view, image, size, config.measure, device=CPU, workers=0,
            views=True, title="training images",
        )  # fmt: skip
    rows = len(real)
    own = described(real)
    contestants = {"other real images (test)": pictures(splits.test)}
    contestants |= {f"training images, blur of {sigma:g} px": blurred(real, sigma) for sigma in BLURS}
    contestants |= {"training images": real, "training images, shifted and brighter": shifted(real)}
    print(f"\n{feature_title(config.measure)}, {rows} training images, {size} px")
    print(f"{'':40}{'images':>8}{'distance':>10}{'precision':>11}{'recall':>8}{'copies':>8}")
    for name, images in contestants.items():
        found = own if images is real else described(images)
        figures, copies = compare(found.features, own.features), memorised(found, known, rows).mean()
        print(
            f"{name:40}{len(images):8d}{figures['frechet']:10.1f}{figures['precision']:11.2f}{figures['recall']:8.2f}"
            f"{copies:8.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
