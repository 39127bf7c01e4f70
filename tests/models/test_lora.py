"""LoRA on a small vision transformer: nothing changes at first, little is trained, what is exported is plain."""

import copy

import pytest
import timm
import torch
from torch.nn import functional

from fgvc.models.config import ModelConfig
from fgvc.models.layers import checkpoint_gradients
from fgvc.models.lora import LoraLinear, add_lora, merge_lora
from fgvc.models.timm import create_model
from shards.errors import UserError


def small_vit() -> torch.nn.Module:
    return create_model(ModelConfig("test_vit", "none", {"img_size": 32}), 5).eval()


def test_it_begins_as_the_network_it_was_and_learns_only_the_changes() -> None:
    torch.manual_seed(0)
    plain = small_vit()
    network = copy.deepcopy(plain)
    add_lora(network, 4)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(network(images), plain(images))
    layers = [name for name, layer in network.named_modules() if isinstance(layer, LoraLinear)]
    assert len(layers) == 4 * len(plain.blocks)  # qkv, proj, fc1, fc2
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    changes = {f"{layer}.{part}" for layer in layers for part in ("lora_a", "lora_b")}
    assert trained == changes | {"head.weight", "head.bias"}

    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.5)
    for _ in range(3):
        functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
        optimizer.zero_grad()
    before, answers = copy.deepcopy(network), network(images)
    layer = before.blocks[0].attn.qkv
    assert not torch.allclose(answers, plain(images), atol=1e-3)
    merge_lora(network)
    assert torch.allclose(network(images), answers, atol=1e-5)
    expected = plain.blocks[0].attn.qkv.weight + 2 * layer.lora_b @ layer.lora_a
    assert torch.allclose(network.blocks[0].attn.qkv.weight, expected)
    fresh = timm.create_model("test_vit", num_classes=5, img_size=32).eval()
    fresh.load_state_dict(network.state_dict(), strict=True)
    assert torch.allclose(fresh(images), answers, atol=1e-5)
    assert torch.equal(before.blocks[0].attn.qkv.weight, plain.blocks[0].attn.qkv.weight)


def test_what_it_cannot_change_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.method=lora: for timm's vision transformers"):
        add_lora(timm.create_model("test_resnet"), 4)
    with pytest.raises(UserError, match=r"train\.lora_rank=64: a layer of \(192, 64\) has no smaller rank"):
        add_lora(small_vit(), 64)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_checkpointed_gradients_are_the_gradients(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=5).train()
    saving = copy.deepcopy(plain)
    checkpoint_gradients(saving)
    images = torch.randn(2, 3, 160, 160)
    kept = []
    for model in (plain, saving):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            loss = model(images).square().sum()
        loss.backward()
        kept.append(sum(saved))
    assert kept[1] < 0.7 * kept[0]
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_family_without_them_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.grad_checkpointing=true: Linear has none"):
        checkpoint_gradients(torch.nn.Linear(2, 2))
