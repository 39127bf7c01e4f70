"""Which layer of a network an explanation reads, and how its output becomes a map: found by trying, for any timm model.

The usual mistakes are silent. The last block of a ViT that classifies by its class token sends no gradient to the other
tokens, so a map from there is zero; register tokens are no positions; Swin's channels come last. So the network is run
once: the last layer with an output for every position that the answer depends on is taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shards.errors import UserError

Layout = tuple[int, int, bool]  # side of the grid, tokens before it, whether channels come last
ToMap = Callable[[Tensor], Tensor]
SHARE = 0.2  # of the positions must matter to the answer; an untrained strided shortcut reads a quarter of them
INSIDE = ("attn", "mlp", "head", "fc", "classifier")  # parts of a block, and what comes after the last map


@dataclass(frozen=True)
class TargetLayer:
    """A layer and `to_map`, which turns its output into (N, C, h, w) without class and register tokens."""

    name: str
    module: nn.Module
    to_map: ToMap
    layout: Layout


def target_layers(network: nn.Module, size: int) -> list[TargetLayer]:
    """The last usable layer of every resolution, the deepest first; at least one.

    network: (N, 3, size, size) floats -> (N, classes), in evaluation mode.
    Raises UserError when no layer gives a map of positions that the answer depends on.
    """
    outputs = _outputs(network, size)
    logits = outputs.pop("")[1]
    score = (logits * torch.linspace(-1, 1, logits.numel(), device=logits.device) ** 3).sum()  # of all classes
    found: dict[int, TargetLayer] = {}
    for name, layout in _candidates(network, outputs, size):
        module, output = outputs[name]
        if layout[0] in found or layout[0] < max(found, default=0):
            continue
        to_map = map_of(layout)
        gradient = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)[0]
        if gradient is not None and (to_map(gradient).abs().sum(1) > 0).float().mean() >= SHARE:
            found[layout[0]] = TargetLayer(name, module, to_map, layout)
    if not found:
        kind = type(network).__name__
        raise UserError(
            f"weights: {kind} has no layer with a map of positions that its answer depends on; methods that need none "
            "are gradients, occlusion, random and centre: methods='[gradients, occlusion]'"
        )
    return list(found.values())


def _candidates(network: nn.Module, outputs: dict[str, Any], size: int) -> list[tuple[str, Layout]]:
    """Layers with a map, the last first for the lowest resolution; of finer ones whole stages before their parts."""
    prefix = getattr(network, "num_prefix_tokens", None)
    found = []
    for name, (module, output) in reversed(outputs.items()):
        layout = layout_of(output, size, prefix)
        if layout is not None and not isinstance(module, nn.Identity):
            found.append((name, layout))
    lowest = min((layout[0] for _, layout in found), default=0)
    return sorted(found, key=lambda item: (item[1][0], item[0].count(".") if item[1][0] > lowest else 0))


def layout_of(output: Tensor, size: int, prefix: int | None) -> Layout | None:
    """How an output's positions lie, from its shape; None where it is no map of at least 2 x 2 positions."""
    shape = tuple(output.shape)
    if len(shape) == 4 and shape[2] == shape[3] and 1 < shape[2] <= size // 2:
        return shape[2], 0, False
    if len(shape) == 4 and shape[1] == shape[2] and 1 < shape[1] <= size // 2:
        return shape[1], 0, True
    if len(shape) == 3:
        guess = shape[1] - (prefix or 0)
        side = math.isqrt(guess)
        if side * side != guess:  # tokens that the network does not own up to, such as those of class attention
            side = math.isqrt(shape[1])
        if 1 < side <= size // 2 and shape[1] - side * side <= 16:
            return side, shape[1] - side * side, True
    return None


def map_of(layout: Layout) -> ToMap:
    """What turns a layer's output into (N, C, h, w)."""
    side, prefix, last = layout

    def to_map(output: Tensor) -> Tensor:
        if output.ndim == 3:
            output = output[:, prefix:].unflatten(1, (side, side))
        return output.permute(0, 3, 1, 2) if last else output

    return to_map


def _outputs(network: nn.Module, size: int) -> dict[str, tuple[nn.Module, Tensor]]:
    """name -> (module, output) of every layer outside attention and MLPs, in the order of their ends; "" the answer."""
    outputs: dict[str, tuple[nn.Module, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                outputs.pop(name, None)
                outputs[name] = module, output

        return hook

    named = [
        (name, module)
        for name, module in network.named_modules()
        if not any(word in part for part in name.split(".") for word in INSIDE)
    ]
    handles = [module.register_forward_hook(keep(name)) for name, module in named]
    device = next(network.parameters()).device
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    try:
        with torch.enable_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
