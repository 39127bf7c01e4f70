"""A network that is evaluated block by block holds on its device what it holds at a time, and says the same."""

import copy

import timm
import torch
from torch import nn

from fgvc.training.eval_copy import EvalCopy, innermost
from fgvc.training.strategies.fsdp import units


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, img_size=32).eval()


def host(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in network.state_dict().items()}


def test_same_answers_and_the_same_weights_afterwards() -> None:
    network = made("vit_tiny_patch16_224")
    streamed = EvalCopy(network).streamed(host(network), torch.device("cpu"))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(network(images), streamed(images))
    assert all(torch.equal(one, network.state_dict()[name]) for name, one in streamed.state_dict().items())


def test_only_one_block_is_on_the_device() -> None:
    """The meta device stands for a GPU: a layer whose weights were left on the CPU would refuse its input."""
    network = made("vit_tiny_patch16_224")
    device, most = torch.device("meta"), 0
    streamed = EvalCopy(network).streamed(host(network), device)
    parameters = list(streamed.parameters())

    def on_device(*_: object) -> None:
        nonlocal most
        most = max(most, sum(one.numel() for one in parameters if one.device == device))

    for block in streamed.blocks:
        block.attn.register_forward_hook(on_device)
    with torch.inference_mode():
        assert streamed(torch.empty(2, 3, 32, 32, device=device)).shape == (2, 4)
    block = sum(one.numel() for one in streamed.blocks[0].parameters())
    outside = sum(one.numel() for one in parameters) - len(streamed.blocks) * block
    assert most == block + outside
    assert all(one.device.type == "cpu" for one in streamed.blocks.parameters())


def test_what_stays_outside_is_small() -> None:
    for name, share in {"vit_large_patch16_224": 0.02, "swin_large_patch4_window7_224": 0.02, "resnet50": 0.15}.items():
        with torch.device("meta"):
            network = timm.create_model(name)
        inside = {one for block in innermost(units(network)) for one in block.parameters()}
        left = sum(one.numel() for one in network.parameters() if one not in inside)
        assert left < share * sum(one.numel() for one in network.parameters()), name


def test_innermost() -> None:
    inner = nn.Sequential(nn.Linear(2, 2))
    outer = nn.Sequential(inner, copy.deepcopy(inner))
    assert innermost([outer, inner, outer[1]]) == [inner, outer[1]]
