"""Learning from what a network attends to: the part of an image that its class is seen by, and the image without it.

WS-DAN's attention crop and attention drop (Hu et al. 2019, https://arxiv.org/abs/1901.09891), which CAL trains with too
(Rao et al. 2021, https://arxiv.org/abs/2108.08728). Theirs come from attention maps that are layers of their own; here
the map is the class activation map of the image's label (Zhou et al. 2016, https://arxiv.org/abs/1512.04150), so that
the network stays as it is: nothing is added to what is exported, or to what measuring costs. The counterfactual loss of
CAL, which needs its attention layers, is not made.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fgvc.models.layers import classifier_of, network_of
from shards.errors import UserError
from shards.reading.loader import Batch
from shards.reading.order import ATTENTION, random_stream

CROP, DROP = (0.4, 0.6), (0.2, 0.5)  # WS-DAN's ranges of the share of a map's maximum that is cut off at
PADDING = 0.1  # of the image's side, around the part that is cropped


def check_attended(network: nn.Module) -> None:
    """Raise UserError for a vision transformer whose class is seen by one token, or by what an attention pools: its
    patches' channels are not what the classifier weighs."""
    # Of a convolutional network `global_pool` is a module.
    if getattr(network, "global_pool", "") in ("token", "map") or getattr(network, "attn_pool", None) is not None:
        raise UserError(
            f"train.attention_crops=true: {type(network).__name__} classifies by one token, not by the mean of its "
            "patches; set model.kwargs='{global_pool: avg}' (weights with a norm before the pooling, such as most of "
            "vit_*, need '{global_pool: avg, fc_norm: false}')"
        )


@torch.no_grad()
def class_maps(model: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N, h, w) in [0, 1]: where the class of every image is seen, by the classifier's weights of that class; fp32
    under autocast too, and 0 where the features are not finite.

    features: what the network's `forward_features` gave: (N, C, h, w), (N, h, w, C) or tokens (N, T, C), the first of
    which may be no patches. Raises UserError where the classifier sees something else than their channels.
    """
    with torch.autocast(features.device.type, enabled=False):
        return _class_maps(network_of(model), features, labels)


def _class_maps(network: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weight = _class_weights(network)[labels]  # (N, C)
    features, channels = features.detach().float(), weight.shape[1]
    if features.ndim == 4:
        # NHWC is Swin's; where both dimensions fit, the channels come first, as in all other networks.
        features = features if features.shape[1] == channels else features.permute(0, 3, 1, 2)
    elif features.ndim == 3:
        features = features[:, getattr(network, "num_prefix_tokens", 0) :]
        side = round(features.shape[1] ** 0.5)
        features = features.mT.reshape(len(features), -1, side, features.shape[1] // side)
    if features.ndim != 4 or features.shape[1] != channels:
        raise UserError(
            f"train.attention_crops=true: the classifier of {type(network).__name__} does not see the channels of its "
            "last features; set it to false"
        )
    maps = torch.einsum("nchw,nc->nhw", features, weight)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # A broken network's maps mark nothing, so that the loop sees the broken loss and goes back.
    return torch.nan_to_num((maps - low) / (high - low).clamp_min(1e-6), nan=0, posinf=0, neginf=0)


def _class_weights(network: nn.Module) -> torch.Tensor:
    """(classes, C): the classifier's weights of the last features, through the scale of a norm between the two."""
    classifier = classifier_of(network)
    weight = classifier.weight.detach().float()
    for norm in (getattr(network, "fc_norm", None), getattr(getattr(network, "head", None), "norm", None)):
        scale = getattr(norm, "weight", None)
        if scale is not None and len(scale) == weight.shape[1]:
            weight = weight * scale.detach().float()
    return weight


def attended(images: torch.Tensor, maps: torch.Tensor, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, H, W) images as (crops, drops) of the same shape: the box around what a map marks, enlarged; the image
    with what it marks set to the image's mean. Where a map marks nothing both are the whole image. Thresholds are
    functions of (seed, epoch, entry)."""
    height, width = images.shape[-2:]
    large = functional.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    pairs = zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
    draws = np.array([random_stream(seed, ATTENTION, *pair).random(2) for pair in pairs], dtype=np.float32)
    crop, drop = torch.from_numpy(draws).to(images.device).T
    pixels = images.contiguous().float()  # planes: sums over channels_last pixels round otherwise
    peak = large.amax((1, 2))  # 0 for a map that marks nothing
    seen = large >= (peak * (CROP[0] + crop * (CROP[1] - CROP[0])))[:, None, None]
    crops = torch.cat([_enlarged(image, mask) for image, mask in zip(pixels, seen, strict=True)])
    gone = large >= (peak * (DROP[0] + drop * (DROP[1] - DROP[0])))[:, None, None]
    gone &= (peak > 0)[:, None, None]
    return crops, torch.where(gone[:, None], pixels.mean((2, 3), keepdim=True), pixels)


def _enlarged(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W): the box around a mask, with padding, resized to the whole (3, H, W) image's size."""
    height, width = mask.shape
    top, bottom = _ends(mask.any(1), round(PADDING * height))
    left, right = _ends(mask.any(0), round(PADDING * width))
    part = image[None, :, top:bottom, left:right]
    return functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)


def _ends(marked: torch.Tensor, padding: int) -> tuple[int, int]:
    """Where a padded stretch around all marked places begins and ends."""
    places = marked.nonzero()
    return max(0, int(places[0]) - padding), min(len(marked), int(places[-1]) + 1 + padding)
