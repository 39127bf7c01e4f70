"""Class activation maps: the origin's, written here, and those of the grad-cam library."""

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from fgvc.explanation.layers import TargetLayer
from fgvc.explanation.subject import Subject, enlarge

LIBRARY: dict[str, type] = {
    "gradcam": library.GradCAM, "gradcam++": library.GradCAMPlusPlus, "xgradcam": library.XGradCAM,
    "hirescam": library.HiResCAM, "layercam": library.LayerCAM, "finercam": library.FinerCAM,
    "eigencam": library.EigenCAM, "scorecam": library.ScoreCAM, "ablationcam": library.AblationCAM,
}  # fmt: skip
SIGNED = ("cam", "gradcam", "xgradcam", "hirescam")  # whose map before the ReLU is at hand
LIKE = 3  # classes that FinerCAM compares with


def class_maps(network: nn.Module, inputs: Tensor, prefix_tokens: int = 0) -> Tensor:
    """(N, classes, h, w): the last fully connected layer as a 1x1 convolution over the last map (Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150), as the origin drew it.

    What a network does between map and classifier (a norm) is done at every position. For networks that pool and then
    classify linearly a class's map has the mean of its logit. The bias, which is nowhere in the image, is left out.
    """
    features = network.forward_features(inputs)  # type: ignore[operator]
    if features.ndim == 3:
        features = features[:, prefix_tokens:]
        side = round(features.shape[1] ** 0.5)
        # Every token in turn is the class token and all others too, so that any way of pooling gives that token.
        positions = features.flatten(0, 1)[:, None].expand(-1, prefix_tokens + 1, -1)
    else:
        last = features.shape[1] == features.shape[2] != features.shape[3]
        side = features.shape[2]
        positions = (features if last else features.permute(0, 2, 3, 1)).flatten(0, 2)
        positions = positions[:, None, None] if last else positions[:, :, None, None]
    scores = network.forward_head(positions)  # type: ignore[operator]
    bias = getattr(network.get_classifier(), "bias", None)  # type: ignore[operator]
    scores = scores if bias is None else scores - bias
    return scores.unflatten(0, (len(inputs), side, side)).permute(0, 3, 1, 2)


def cam(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """The origin's maps of one class an image, (N, size, size), where they are positive."""
    return enlarge(_class_map(subject, inputs, classes).clamp_min(0), subject.size)


def _class_map(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    prefix = subject.layers[0].layout[1]  # is found by gradients
    with torch.no_grad():
        maps = class_maps(subject.network, inputs, prefix)
    return maps[torch.arange(len(classes)), classes].cpu()


def signed_cam(name: str, subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """The maps of one of SIGNED before their ReLU, (N, h, w) as the layer has them: of both signs."""
    if name == "cam":
        return _class_map(subject, inputs, classes)
    labels = classes[:, None]
    pairs = _gradients(subject.layers[:1], subject.network, inputs, lambda logits: logits.gather(1, labels))
    gradient, activation = pairs[0]
    if name == "gradcam":
        gradient = gradient.mean((2, 3), keepdim=True)
    if name == "xgradcam":
        total = activation.sum((2, 3), keepdim=True) + 1e-7  # as the library has it
        gradient = (gradient * activation / total).sum((2, 3), keepdim=True)
    return (gradient * activation).sum(1).cpu()


def gradient_cam(layers: Sequence[TargetLayer], network: nn.Module, inputs: Tensor, score: Callable) -> list[Tensor]:
    """Per layer the signed sum over channels of gradient times activation, (N, h, w): HiResCAM before its ReLU.

    score: (N, classes) logits -> (N,), of which the gradient is taken.
    """
    found = _gradients(layers, network, inputs, score)
    return [(gradient * activation).sum(1).cpu() for gradient, activation in found]


def _gradients(
    layers: Sequence[TargetLayer], network: nn.Module, inputs: Tensor, score: Callable
) -> list[tuple[Tensor, Tensor]]:
    """Per layer (gradient, activation), (N, C, h, w) each."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda module, given, output: outputs.__setitem__(name, output)

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in layers]
    try:
        with torch.enable_grad():
            total = score(network(inputs)).sum()
            gradients = torch.autograd.grad(total, [outputs[layer.name] for layer in layers])
    finally:
        for handle in handles:
            handle.remove()
    return [
        (layer.to_map(gradient).detach(), layer.to_map(outputs[layer.name]).detach())
        for layer, gradient in zip(layers, gradients, strict=True)
    ]


def library_cam(name: str, subject: Subject, inputs: Tensor, classes: Tensor, others: Tensor | None = None) -> Tensor:
    """The maps of a method of grad-cam, (N, size, size) in 0 to 1; LayerCAM's of the last two resolutions.

    others: (N,), for FinerCAM the one class to compare with; None: those that are most like it.
    """
    layers = subject.layers[: 2 if name == "layercam" else 1]
    if name == "layercam" and len(layers) == 2:  # each layer has a reshape of its own; the library takes one for all
        return torch.stack([_run(name, subject, layer, inputs, classes) for layer in layers]).mean(0)
    return _run(name, subject, layers[0], inputs, classes, others)


def _run(
    name: str, subject: Subject, layer: TargetLayer, inputs: Tensor, classes: Tensor, others: Tensor | None = None
) -> Tensor:
    settings: dict[str, Any] = {}
    if name == "ablationcam":
        settings["ablation_layer"] = _Ablation(layer.layout[2])
    targets: list[Any] = [ClassifierOutputTarget(int(label)) for label in classes]
    if name == "finercam":
        targets = _finer_targets(subject, inputs, classes, others)
    # The library draws bars of its own for slow methods.
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), torch.enable_grad():
        method = LIBRARY[name](subject.network, [layer.module], reshape_transform=layer.to_map, **settings)
        with method:
            return torch.from_numpy(method(input_tensor=inputs, targets=targets))


def _finer_targets(subject: Subject, inputs: Tensor, classes: Tensor, others: Tensor | None) -> list[Any]:
    """Each class against those whose logits are nearest to its own, as the library chooses them for the top class; or
    against the one that is given."""
    if others is not None:
        return [
            FinerWeightedTarget(int(label), [int(other)], 1.0) for label, other in zip(classes, others, strict=True)
        ]
    logits = subject.logits(inputs)
    own = logits.gather(1, classes[:, None].cpu())
    distance = (logits - own).abs().scatter(1, classes[:, None].cpu(), np.inf)
    nearest = distance.argsort(1)[:, : min(LIKE, logits.shape[1] - 1)].tolist()
    return [FinerWeightedTarget(int(label), others, 1.0) for label, others in zip(classes, nearest, strict=True)]


class _Ablation(AblationLayer):
    """The library's ablation, for layers whose channels come last too: it ablates along the second dimension."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self._last = channels_last

    def set_next_batch(self, input_batch_index: int, activations: Tensor, num_channels_to_ablate: int) -> None:
        one = activations[input_batch_index]
        self.activations = (one.movedim(-1, 0) if self._last else one).repeat(num_channels_to_ablate, *[1] * one.ndim)

    def __call__(self, x: Tensor) -> Tensor:
        output = super().__call__(x)
        return output.movedim(1, -1) if self._last else output
