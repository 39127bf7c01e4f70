"""FLOPs are counted as torch's own counter does, and where that one fails."""

import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fgvc.runtime.flops import FlopCounter


def test_counts_are_torchs_own() -> None:
    images = torch.zeros(2, 3, 64, 64)
    for name in ("test_resnet", "test_efficientnet"):
        model = timm.create_model(name)
        with FlopCounter() as ours:
            model(images).sum().backward()
        with FlopCounterMode(display=False) as theirs:
            model(images).sum().backward()
        assert ours.total == theirs.get_total_flops() > 1e6


def test_attention_counts_on_a_cpu_too() -> None:
    """As its products do where they are made one by one; torch's counter leaves the CPU's own kernel out."""
    images, model = torch.zeros(2, 3, 64, 64), timm.create_model("test_vit", img_size=64)
    with FlopCounter() as ours:
        model(images)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as theirs:
        model(images)
    assert ours.total == theirs.get_total_flops()


def test_a_gradient_of_a_gradient_by_hand() -> None:
    """x (4, 8) @ w (8, 2): each product of forward, gradient and gradient of gradient is 2 * 4 * 8 * 2."""
    x, w = torch.ones(4, 8, requires_grad=True), torch.ones(8, 2, requires_grad=True)
    with FlopCounter() as counter:
        (gradient,) = torch.autograd.grad((x @ w).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    # Forward 1, gradient to x 1; backward of that: to w twice (through both products), to x and to the product's
    # gradient: 4 more.
    assert counter.total == 6 * 2 * 4 * 8 * 2
