"""A network that is evaluated block by block holds on its device what it holds at a time, and says the same."""

import timm
import torch
from torch import nn

from fgvc.training.eval_copy import EvalCopy, blocks_of


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

    def on_device(*_: object) -> None:
        nonlocal most
        most = max(most, sum(one.numel() for one in streamed.parameters() if one.device == device))

    for block in streamed.blocks:
        block.attn.register_forward_hook(on_device)
    with torch.inference_mode():
        assert streamed(torch.empty(2, 3, 32, 32, device=device)).shape == (2, 4)
    block = sum(one.numel() for one in streamed.blocks[0].parameters())
    outside = sum(one.numel() for one in streamed.parameters()) - len(streamed.blocks) * block
    assert most == block + outside
    assert all(one.device.type == "cpu" for one in streamed.blocks.parameters())


def test_blocks_hold_nearly_all_and_are_small() -> None:
    shares = {"vit_large_patch16_224": 0.02, "swin_large_patch4_window7_224": 0.05, "resnet50": 0.1}
    for name, outside in shares.items():
        with torch.device("meta"):
            network = timm.create_model(name)
        sizes = [sum(one.numel() for one in block.parameters()) for block in blocks_of(network)]
        total = sum(one.numel() for one in network.parameters())
        assert (1 - outside) * total < sum(sizes) <= total, name
        assert max(sizes) < total / 4, name


def test_a_block_may_hold_a_unit_and_a_stage_is_none() -> None:
    with torch.device("meta"):
        network = timm.create_model("resnet50")
    assert blocks_of(network) == [*network.layer1, *network.layer2, *network.layer3, *network.layer4]
