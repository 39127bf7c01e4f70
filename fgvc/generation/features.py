"""What images are compared by: Inception's pooled features, as FID is defined, or those of any timm network."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fgvc.generation.config import MeasureConfig
from fgvc.models.config import ModelConfig
from fgvc.models.timm import create_model, input_size, input_statistics
from shards.errors import UserError
from shards.paths import expand

INCEPTION = "inception"
# The file that FID is defined by, as torch-fidelity publishes and caches it.
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Features(nn.Module):
    """(N, 3, H, W) uint8 -> (N, D) fp32, pooled. `name`: how figures of them are called."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, name: str, size: int, mean: torch.Tensor, std: torch.Tensor) -> None:
        """mean, std: (1, 3, 1, 1), 0-1 scale. size: side to which images are resized."""
        super().__init__()
        self.network, self.name, self.size = network.eval().requires_grad_(False), name, size
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = images.float() / 255
        if found.shape[2:] != (self.size, self.size):
            found = functional.interpolate(found, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network((found - self.mean) / self.std).float().flatten(1)


class Inception(nn.Module):
    """torch-fidelity's port of the network that FID is defined by: (N, 3, H, W) uint8 -> (N, 2048)."""

    name = INCEPTION

    def __init__(self, file: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.network = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(file))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)[0].float()


def create_features(config: MeasureConfig) -> Any:
    """Raises UserError for unknown networks and weights that are not there."""
    if config.features == INCEPTION:
        return Inception(_inception_file(config.weights)).eval()
    network = create_model(ModelConfig(config.features, config.weights), 0)
    mean, std = input_statistics(network, ModelConfig(config.features))
    return Features(network, config.features, config.size or input_size(network), mean, std)


def feature_title(config: MeasureConfig) -> str:
    """How a Frechet distance of these features is called: FID only of Inception's."""
    short = re.sub(r"^tf_efficientnet_", "", config.features)
    return "FID" if config.features == INCEPTION else f"FD ({short} features)"


def _inception_file(weights: str) -> Path:
    """Its usual file, downloaded where it is not there. The library unpickles what it opens: a file is opened here
    first, in the way that takes tensors only."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if weights != "hub":
        file = expand(weights, "measure.weights")
    elif not file.is_file():
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"measure.features=inception: its weights are not cached here and cannot be downloaded ({error}); copy "
                f"{INCEPTION_FILE} to {file.parent}, or give measure.weights=FILE"
            ) from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(
            f"measure.weights={file}: not readable as tensors ({str(error).splitlines()[0][:120]})"
        ) from None
    if not isinstance(state, dict) or "Mixed_7c.branch1x1.conv.weight" not in state:
        raise UserError(f"measure.weights={file}: not the Inception that FID is defined by; it is {INCEPTION_FILE}")
    return file
