"""Rollout and relevance: a two-layer case by hand, another implementation, timm's own windows."""

import numpy as np
import pytest
import torch
from subjects import noise_images, registers, subject_of, timm_subject, tiny_swin
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from fgvc.explanation.attention import _in_windows, _propagated, _record, relevance, rollout
from fgvc.explanation.subject import enlarge


class _Tokens(nn.Module):
    """A network of a class token and four patches, of which only that is read."""

    num_prefix_tokens = 1
    global_pool = "token"

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.zeros(1))


def test_rollout_by_hand() -> None:
    """In layer 1 patch 1 (of four) looks at patch 4 only, all others at themselves. In layer 2 the class token looks at
    patch 1 only. Half of everything is the residual: the class token takes 1/2 from itself, 1/4 from patch 1 and 1/4
    from patch 4."""
    first, second = torch.eye(5), torch.eye(5)
    first[1] = torch.tensor([0.0, 0, 0, 0, 1])
    second[0] = torch.tensor([0.0, 1, 0, 0, 0])
    subject = subject_of(_Tokens(), 2)
    steps = [(nn.Identity(), first[None]), (nn.Identity(), second[None])]
    found = _propagated(subject, steps, average=True)
    torch.testing.assert_close(found, torch.tensor([[[0.25, 0.0], [0.0, 0.25]]]))
    # Relevance adds instead: R = I + A2 + A1 + A2 A1, of which the class token's row is 1, 1, 0, 0, 1 over patches.
    first, second = first - torch.eye(5), second - torch.eye(5)
    found = _propagated(subject, [(nn.Identity(), first[None]), (nn.Identity(), second[None])], average=False)
    ident = np.eye(5)
    expected = (ident + second.numpy()) @ (ident + first.numpy())
    np.testing.assert_allclose(found[0].numpy().ravel(), expected[0, 1:])


@pytest.mark.parametrize("kind", ["vit", "registers"])
def test_vit_against_another_implementation(kind: str) -> None:
    """The same formulas from the queries and keys themselves."""
    subject = registers() if kind == "registers" else timm_subject("test_vit", 56, img_size=64)
    if kind == "vit":
        subject.size = 64
    inputs, classes = subject.normalise(noise_images(2, subject.size)), torch.tensor([1, 4])
    network, kept = subject.network, []

    def own(attention: nn.Module) -> None:
        def forward(x: Tensor, **_: object) -> Tensor:
            heads = attention.num_heads
            q, k, v = attention.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = attention.q_norm(q), attention.k_norm(k)
            weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
            kept.append(weights)
            return attention.proj(attention.norm((weights @ v).transpose(1, 2).flatten(2)))

        attention.forward = forward

    ours = {"rollout": rollout(subject, inputs, classes), "relevance": relevance(subject, inputs, classes)}
    logits = subject.logits(inputs)
    for block in network.blocks:
        own(block.attn)
    again = network(inputs)
    torch.testing.assert_close(again.detach(), logits, atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(again[[0, 1], classes].sum(), kept)
    prefix, side = network.num_prefix_tokens, round((kept[0].shape[-1] - network.num_prefix_tokens) ** 0.5)
    for name, found in ours.items():
        rows = []
        for image in range(2):
            taken = np.eye(kept[0].shape[-1])
            for weights, gradient in zip(kept, gradients, strict=True):
                a, g = weights[image].detach().numpy(), gradient[image].numpy()
                if name == "rollout":
                    taken = (0.5 * a.mean(0) + 0.5 * np.eye(len(taken))) @ taken
                else:
                    taken = taken + np.maximum(a * g, 0).mean(0) @ taken
            rows.append(taken[0, prefix:].reshape(side, side))
        torch.testing.assert_close(found, enlarge(torch.tensor(np.array(rows)), subject.size), atol=1e-5, rtol=1e-3)


def test_windows_are_cut_as_timm_cuts_them() -> None:
    """timm's own block with an attention that is given: its shift, padding and windows against ours."""
    for shift in (0, 2):
        block = SwinTransformerBlock(6, (14, 14), num_heads=1, window_size=5, shift_size=shift)
        weights = torch.softmax(torch.randn(9, 25, 25, generator=torch.Generator().manual_seed(1)), -1)
        block.attn.forward = lambda windows, mask=None, weights=weights: weights @ windows
        image = torch.randn(1, 14, 14, 6, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(_in_windows(block, weights, image[0]), block._attn(image)[0])
    assert block.shift_size == (2, 2)


def test_swin_keeps_what_flows() -> None:
    """Rollout moves shares about and loses none but at padding; a patch is attributed what its own pixels change."""
    subject = tiny_swin()
    inputs = subject.normalise(noise_images(2, 56))
    steps = _record(subject.network, inputs)
    assert [step[1].shape[-1] for step in steps] == [25] * 4
    torch.testing.assert_close(steps[0][1].sum(-1), torch.ones_like(steps[0][1].sum(-1)))
    maps = rollout(subject, inputs, torch.tensor([0, 1]))
    assert maps.shape == (2, 56, 56)
    assert float(maps.min()) > 0
    relevant = relevance(subject, inputs, torch.tensor([0, 1]))
    assert not torch.allclose(relevant, relevance(subject, inputs, torch.tensor([2, 3])))
    assert torch.allclose(maps, rollout(subject, inputs, torch.tensor([2, 3])))  # knows no class
