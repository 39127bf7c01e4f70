"""Explanations from attention, for ViTs and Swin: rollout and gradient-weighted relevance.

Both carry, for every token of a layer, what it takes from the image's patches, as an image of `patches` channels. In a
ViT all tokens attend to one another; in Swin the tokens of a window, and four neighbours become one between stages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fgvc.explanation.subject import Subject, enlarge
from shards.errors import UserError


def rollout(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928), (N, size, size); knows no class."""
    with torch.no_grad():
        steps = _record(subject.network, inputs)
        return _propagated(subject, [(block, attention.mean(1)) for block, attention in steps], average=True)


def relevance(subject: Subject, inputs: Tensor, classes: Tensor) -> Tensor:
    """Relevance of a class by attention times its gradient (Chefer et al. 2021, https://arxiv.org/abs/2103.15679)."""
    with torch.enable_grad():
        steps = _record(subject.network, inputs, lambda logits: logits.gather(1, classes[:, None]).sum())
    return _propagated(subject, steps, average=False)


def attention_blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks whose attention is read, by name. Raises UserError for a network without attention of these kinds."""
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(getattr(getattr(module, "attn", None), "attn_drop", None), nn.Module)
    ]
    if not found:
        kind = type(network).__name__
        raise UserError(f"methods: {kind} has no attention of ViT's or Swin's kind, which rollout and relevance read")
    return found


def _record(network: nn.Module, inputs: Tensor, score: Any = None) -> list[tuple[nn.Module, Tensor]]:
    """(block, attention) of every block, in order: (N or N x windows, heads, T, T); with a score (heads averaged) the
    positive part of attention times its gradient, (N or N x windows, T, T)."""
    kept: list[Tensor] = []
    blocks: list[tuple[str, Any]] = [*attention_blocks(network)]
    with _unfused(network):
        handles = [
            block.attn.attn_drop.register_forward_hook(lambda module, given, output: kept.append(output))
            for _, block in blocks
        ]
        try:
            logits = network(inputs)
        finally:
            for handle in handles:
                handle.remove()
    if len(kept) != len(blocks):
        raise UserError(f"methods: {type(network).__name__} computes its attention where rollout cannot read it")
    if score is None:
        return [(block, attention) for (_, block), attention in zip(blocks, kept, strict=True)]
    gradients = torch.autograd.grad(score(logits), kept)
    return [
        (block, (gradient * attention).clamp_min(0).mean(1).detach())
        for (_, block), attention, gradient in zip(blocks, kept, gradients, strict=True)
    ]


@contextmanager
def _unfused(network: nn.Module) -> Iterator[None]:
    """Attention as two products and a softmax: the fused kernel does not give its weights."""
    fused = [(module, module.fused_attn) for module in network.modules() if hasattr(module, "fused_attn")]
    for module, _ in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, before in fused:
            module.fused_attn = before


def _propagated(subject: Subject, steps: list[tuple[nn.Module, Tensor]], average: bool) -> Tensor:
    """Carry what tokens take from patches through the blocks; average: (attention + identity) / 2, else added."""
    if getattr(steps[0][0], "window_size", None) is not None:
        return _through_windows(subject, steps, average)
    network: Any = subject.network
    prefix = int(getattr(network, "num_prefix_tokens", 1))
    tokens = steps[0][1].shape[-1]
    taken = torch.eye(tokens, device=steps[0][1].device).expand(len(steps[0][1]), -1, -1)
    for _, attention in steps:
        mixed = attention @ taken
        taken = (mixed + taken) / 2 if average else mixed + taken
    by_class = prefix and getattr(network, "global_pool", "token") in ("token", "")
    row = taken[:, 0] if by_class else taken[:, prefix:].mean(1)
    side = round((tokens - prefix) ** 0.5)
    return enlarge(row[:, prefix:].unflatten(1, (side, side)).cpu(), subject.size)


def _through_windows(subject: Subject, steps: list[tuple[nn.Module, Tensor]], average: bool) -> Tensor:
    """As `_propagated` for Swin: (N, H, W, patches) through shifted windows and merged patches."""
    first: Any = steps[0][0]
    side = first.input_resolution[0]
    images = steps[0][1].shape[0] * first.attn.window_area // _padded(side, first.window_size[0]) ** 2
    maps = []
    for image in range(images):  # a map from every token to every patch is large
        taken = torch.eye(side * side, device=steps[0][1].device).unflatten(0, (side, side))  # (H, W, patches)
        for block, attention in steps:
            resolution = block.input_resolution[0]  # type: ignore[index]
            while len(taken) > resolution:  # patches were merged
                taken = functional.avg_pool2d(taken.movedim(2, 0)[None], 2, ceil_mode=True)[0].movedim(0, 2)
            windows = attention.unflatten(0, (images, -1))[image]
            mixed = _in_windows(block, windows, taken)
            taken = (mixed + taken) / 2 if average else mixed + taken
        maps.append(taken.mean((0, 1)).unflatten(0, (side, side)))
    return enlarge(torch.stack(maps).cpu(), subject.size)


def _padded(side: int, window: int) -> int:
    return -(-side // window) * window


def _in_windows(block: Any, attention: Tensor, taken: Tensor) -> Tensor:
    """attention (windows, T, T) over `taken` (H, W, C), cut into the block's windows as timm cuts them."""
    side, window = len(taken), block.window_size[0]
    shift, whole = block.shift_size[0], _padded(len(taken), block.window_size[0])
    rolled = torch.roll(taken, (-shift, -shift), (0, 1))
    rolled = functional.pad(rolled, (0, 0, 0, whole - side, 0, whole - side))
    count = whole // window
    cut = rolled.view(count, window, count, window, -1).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    mixed = (attention @ cut).view(count, count, window, window, -1).permute(0, 2, 1, 3, 4)
    return torch.roll(mixed.reshape(whole, whole, -1)[:side, :side], (shift, shift), (0, 1))
