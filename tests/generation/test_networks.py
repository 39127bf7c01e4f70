"""Networks of GANs: published sizes, spectral norm, BatchNorm over ranks, what comes out and in at every size."""

from pathlib import Path

import pytest
import torch
from places import HELPERS, weights_file
from ranks import run_ranks
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fgvc.generation.config import GanModelConfig
from fgvc.generation.networks import biggan, biggan_deep
from fgvc.generation.networks.create import create_generator, create_networks
from fgvc.generation.networks.layers import Attention, BatchNorm, spectral
from shards.errors import UserError


def parameters(kind: type, *arguments: int) -> int:
    with FakeTensorMode():  # shapes only
        return sum(parameter.numel() for parameter in kind(*arguments).parameters())


def test_biggan_has_the_published_numbers_of_parameters() -> None:
    """128 px: google/compare_gan's test of the published model; 256 px: of another implementation, which gives the 119
    numbers that 7 parts divide of 120 (the paper's are 140)."""
    assert parameters(biggan.Generator, 128, 120, 96, 1000) == 70_433_988
    assert parameters(biggan.Discriminator, 128, 96, 1000) == 87_982_370
    assert parameters(biggan.Generator, 256, 119, 96, 1000) == 82_108_548
    assert parameters(biggan.Generator, 256, 140, 96, 1000) == 82_235_844
    assert parameters(biggan.Discriminator, 256, 96, 1000) == 99_225_890


def test_biggan_deep_has_the_published_numbers_of_parameters() -> None:
    """128 px: google/compare_gan's test. 256 px: the 55.9 M of the released generator, whose last layer has 128
    outputs, of which 3 are used."""
    assert parameters(biggan_deep.Generator, 128, 128, 128, 1000) == 50_244_484
    assert parameters(biggan_deep.Discriminator, 128, 128, 1000) == 34_590_210
    unused = (128 - 3) * (128 * 9 + 1)
    assert round((parameters(biggan_deep.Generator, 256, 128, 128, 1000) + unused) / 1e6, 1) == 55.9


@pytest.mark.parametrize("name", ["dcgan", "biggan", "biggan_deep", "projected"])
@pytest.mark.parametrize("size", [32, 64])
def test_every_network_makes_and_judges_images_by_class(name: str, size: int) -> None:
    latent = 20 if size == 64 else 16
    config = GanModelConfig(name, size, latent, 8, backbone_weights="none")  # type: ignore[arg-type]
    networks = create_networks(config, 3, 0)
    noise, labels = torch.randn(2, latent), torch.tensor([0, 2])
    images = networks.generator.eval()(noise, labels)
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    networks.discriminator.eval()
    logits = networks.judge(images, labels)
    assert logits.shape[0] == 2
    assert logits.ndim == 2
    others = torch.tensor([1, 1])
    assert not networks.generator(noise, others).equal(images)
    assert not networks.judge(images, others).equal(logits)
    unknown = torch.zeros(2)  # nothing is known of the class: it makes no difference
    assert networks.generator(noise, others, unknown).equal(networks.generator(noise, labels, unknown))
    assert networks.judge(images, others, unknown).equal(networks.judge(images, labels, unknown))


def test_a_seed_decides_all_weights() -> None:
    config = GanModelConfig("projected", 32, 16, 8, backbone_weights="none")
    one, same, other = (create_networks(config, 2, seed) for seed in (0, 0, 1))
    for name in ("generator", "discriminator"):
        left, right, third = (getattr(networks, name).state_dict() for networks in (one, same, other))
        assert all(left[key].equal(right[key]) for key in left)
        assert not all(left[key].equal(third[key]) for key in left)


def test_the_backbone_stays_as_it_is_and_sees_its_own_normalisation() -> None:
    file = weights_file("mobilenetv2_100_features.safetensors")
    config = GanModelConfig("projected", 32, 16, 8, backbone="mobilenetv2_100", backbone_weights=str(file))
    judge = create_networks(config, 2, 0).judge
    before = {key: value.clone() for key, value in judge.backbone.state_dict().items()}  # type: ignore[union-attr]
    judge.train()
    seen: list[torch.Tensor] = []
    judge.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    pixels = torch.rand(2, 3, 32, 32)
    judge((pixels - 0.5) / 0.5, torch.tensor([0, 1])).mean().backward()
    assert all(before[key].equal(value) for key, value in judge.backbone.state_dict().items())  # type: ignore[union-attr]
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert torch.allclose(seen[0], (pixels - mean) / std, atol=1e-5)
    moved = [name for name, parameter in judge.named_parameters() if parameter.grad is not None]
    assert all(name.startswith("heads.heads.") for name in moved)


def test_a_latent_that_biggan_cannot_share_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.latent=128: .* take a multiple of 5, such as 130"):
        create_networks(GanModelConfig("biggan", 64, 128, 8), 2, 0)


def test_spectral_norm_finds_the_largest_singular_value() -> None:
    layer = spectral(nn.Conv2d(5, 7, 3))
    for _ in range(60):
        layer(torch.zeros(1, 5, 4, 4))
    assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, rel=1e-3)
    layer.eval()
    kept = layer.parametrizations.weight[0].left  # type: ignore[union-attr,index]
    before = layer.weight.detach().clone()
    kept.mul_(0.3)  # an average of unit vectors is shorter
    assert torch.allclose(layer.weight, before, atol=1e-5)


def test_attention_starts_as_nothing_and_equals_torchs() -> None:
    layer, features = Attention(16).eval(), torch.randn(2, 16, 8, 8)
    assert layer(features).equal(features)
    layer.gamma.data.fill_(1.0)
    query, key, value = layer.query(features), layer.key(features), layer.value(features)
    query, key, value = (
        one.flatten(2).transpose(1, 2)
        for one in (query, nn.functional.max_pool2d(key, 2), nn.functional.max_pool2d(value, 2))
    )
    found = nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    expected = features + layer.out(found.transpose(1, 2).unflatten(2, (8, 8)))
    assert torch.allclose(layer(features), expected, atol=1e-5)


def test_batch_norm_is_torchs_on_one_rank() -> None:
    ours, theirs, features = BatchNorm(4), nn.BatchNorm2d(4), torch.randn(6, 4, 3, 3)
    assert torch.allclose(ours(features), theirs(features), atol=1e-6)
    assert torch.allclose(ours.eval()(features), theirs.eval()(features), atol=1e-6)


def test_a_generator_trained_at_batch_one_makes_the_same_images_in_evaluation() -> None:
    """Whatever batch they are made in: with statistics of each image alone, which BatchNorm at batch 1 has."""
    kinds = (GanModelConfig("dcgan", 32, 8, 8, bn_per_image=alone) for alone in (True, False))
    ours, plain = (create_networks(config, 2, 0).generator for config in kinds)
    noise, labels = torch.randn(3, 8), torch.tensor([0, 1, 1])
    trained = torch.cat([plain(noise[i : i + 1], labels[i : i + 1]) for i in range(3)])
    assert torch.allclose(ours.eval()(noise, labels), trained, atol=1e-5)
    assert not torch.allclose(plain.eval()(noise, labels), trained, atol=1e-2)


def test_batch_norm_over_two_ranks_equals_one_rank_with_the_same_batch(tmp_path: Path) -> None:
    """Outputs, running statistics, gradients of inputs and of parameters."""
    run_ranks(tmp_path, [str(HELPERS / "batch_norm_rank.py"), str(tmp_path)], 2)
    torch.manual_seed(0)
    features, weights = torch.randn(8, 4, 3, 3).requires_grad_(), torch.randn(8, 4, 3, 3)
    layer = nn.BatchNorm2d(4)
    found = layer(features)
    (found * weights).sum().backward()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, expected in (("out", found), ("gradient", features.grad)):
        assert expected is not None
        assert torch.allclose(torch.cat([rank[name] for rank in ranks]), expected, atol=1e-5), name
    assert layer.weight.grad is not None
    assert torch.allclose(ranks[0]["weight"] + ranks[1]["weight"], layer.weight.grad, atol=1e-4)
    for rank in ranks:
        assert torch.allclose(rank["running_mean"], layer.running_mean, atol=1e-6)
        assert torch.allclose(rank["running_var"], layer.running_var, atol=1e-6)


@pytest.mark.parametrize("name", ["projected", "dcgan"])
def test_an_image_begins_as_its_latents_more_than_its_class(name: str) -> None:
    generator = create_generator(GanModelConfig(name=name, size=64, width=16), 8)
    latents = torch.randn(16, GanModelConfig().latent)
    first, second = (generator(latents, torch.full((16,), label)) for label in (0, 1))
    by_class, by_latent = (first - second).abs().mean(), (first - first.roll(1, 0)).abs().mean()
    assert by_class < 0.3 * by_latent  # 0.9 of it, and all images of a class became one
