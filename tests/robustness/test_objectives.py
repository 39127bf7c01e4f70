"""Objectives against attacks: by hand, against the authors' code, and whatever the batch, the precision, the layers."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.config import TrainConfig
from fgvc.classification.mixing import mix
from fgvc.models.normalised import Normalised
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.objectives import defended, epsilon_at
from fgvc.runtime.flops import FlopCounter
from fgvc.training.learner import Objective
from shards.reading.loader import Batch
from shards.reading.order import NOISE, START, random_stream

EPSILON, SIDE, SEED = 8 / 255, 32, 3
CPU = torch.device("cpu")
Make = Callable[..., Objective]


def objective(method: str, classes: int = 4, teacher: nn.Module | None = None, **settings: object) -> Objective:
    train = TrainConfig(label_smoothing=0.0)
    return defended(DefenceConfig(method, EPSILON, **settings), train, classes, SEED, CPU, teacher=teacher)  # type: ignore[arg-type]


def batch_of(count: int = 8, side: int = SIDE, classes: int = 4, epoch: int = 2) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=draw)
    return Batch(images, labels, torch.arange(100, 100 + count), torch.full((count,), epoch))


def part(batch: Batch, chosen: list[int]) -> Batch:
    return Batch(batch.images[chosen], batch.labels[chosen], batch.entries[chosen], batch.epochs[chosen])


def network(seed: int = 0, **settings: object) -> Normalised:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=4, **settings)
    model.train()(torch.randn(16, 3, SIDE, SIDE))  # running statistics unlike the initial ones
    return Normalised(model, torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25), channels_last=False)


class Recorder(nn.Module):
    """A model that keeps the images it is asked about, in [0, 255], and the mode it was in."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.asked, self.modes = inside, list[torch.Tensor](), list[bool]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked.append(images.detach().clone())
        self.modes.append(self.training)
        return self.inside(images)


class Linear(nn.Module):
    """Two classes told apart by one weight a pixel: every attack on it is known."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1)) / 100
        self.weight = nn.Parameter(torch.stack([weight, -weight]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1) / 255 @ self.weight.T


def start_of(batch: Batch) -> np.ndarray:
    """Where attacks begin, drawn again: uniform in the ball, by (seed, epoch, entry), within the range of pixels."""
    shape = batch.images.shape[1:]
    pairs = zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
    drawn = np.stack([random_stream(SEED, START, *pair).uniform(-1, 1, shape) for pair in pairs])
    return np.clip(batch.images.numpy() / 255 + EPSILON * drawn, 0, 1)


@pytest.mark.parametrize(
    ("method", "steps", "length"), [("fgsm", 1, 1.25 * EPSILON), ("pgd", 5, EPSILON / 2), ("pgd", 2, 1.25 * EPSILON)]
)
def test_what_a_linear_model_learns_by_hand(method: str, steps: int, length: float) -> None:
    """The loss's gradient has the same sign everywhere: every step goes that way, and back into the ball."""
    batch, model = batch_of(classes=2), Linear()
    images, found = batch.images.numpy() / 255, start_of(batch)
    away = np.sign(model.weight.detach().numpy()[1 - batch.labels.numpy()].reshape(images.shape))
    for _ in range(steps):
        found = np.clip(images + np.clip(found + length * away - images, -EPSILON, EPSILON), 0, 1)
    logits = found.reshape(len(images), -1) @ model.weight.detach().numpy().T
    right = logits[np.arange(len(images)), batch.labels.numpy()]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - right)
    loss, figures = objective(method, classes=2, steps=steps)(model, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert figures["robust_top1"].item() == np.mean(right >= logits.max(1))
    assert images.shape == found.shape
    assert np.abs(found - images).max() <= EPSILON + 1e-7


def trades_by_its_authors(
    model: nn.Module, x_natural: torch.Tensor, y: torch.Tensor, start: torch.Tensor, step_size: float, epsilon: float,
    perturb_steps: int, beta: float,
) -> torch.Tensor:  # fmt: skip
    """`trades_loss` of https://github.com/yaodongyu/TRADES, L-inf, from a given start."""
    criterion_kl = nn.KLDivLoss(reduction="sum")
    model.eval()
    x_adv = start.detach()
    for _ in range(perturb_steps):
        x_adv.requires_grad_()
        loss_kl = criterion_kl(functional.log_softmax(model(x_adv), 1), functional.softmax(model(x_natural), 1))
        grad = torch.autograd.grad(loss_kl, [x_adv])[0]
        x_adv = x_adv.detach() + step_size * torch.sign(grad.detach())
        x_adv = torch.min(torch.max(x_adv, x_natural - epsilon), x_natural + epsilon)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    model.train()
    logits = model(x_natural)
    natural = functional.cross_entropy(logits, y)
    robust = criterion_kl(functional.log_softmax(model(x_adv), 1), functional.softmax(model(x_natural), 1))
    return natural + beta * robust / len(x_natural)


def test_trades_is_its_authors() -> None:
    batch, ours, theirs = batch_of(), network().double(), network().double()
    loss, _ = objective("trades", steps=4, beta=3.0)(ours.train(), batch)
    loss.backward()

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = theirs

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inside(images * 255)

    start = torch.from_numpy(start_of(batch)).float()
    expected = trades_by_its_authors(
        Pixels(), batch.images / 255, batch.labels, start, 2.5 * EPSILON / 4, EPSILON, 4, 3.0
    )
    expected.backward()
    # A pixel whose slope is all but zero may go the other way by rounding, and the next steps with it.
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    one, other = (torch.cat([part.grad.flatten() for part in model.parameters()]) for model in (ours, theirs))
    assert functional.cosine_similarity(one, other, dim=0) > 0.999
    assert one.norm().item() == pytest.approx(other.norm().item(), rel=0.02)


def test_distillation_by_hand() -> None:
    batch, teacher, student = batch_of(), network(1), network(2)
    softened = (teacher.eval()(batch.images) / 20).softmax(1).detach()
    teacher.train()
    loss, figures = objective("distillation", teacher=teacher, temperature=20.0)(student.train(), batch)
    logits = network(2).train()(batch.images)
    assert loss.item() == pytest.approx(-(softened * (logits / 20).log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    assert figures["top1"].item() == (logits.argmax(1) == batch.labels).float().mean().item()
    loss.backward()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    first, _ = objective("distillation", temperature=20.0)(network(2).train(), batch)
    assert first.item() == pytest.approx(functional.cross_entropy(logits / 20, batch.labels).item(), rel=1e-5)


def test_noise_is_drawn_by_sample_and_kept_in_range() -> None:
    batch, model = batch_of(), Recorder(network())
    objective("noise", noise=0.2)(model, batch)
    (asked,) = model.asked
    shape = batch.images.shape[1:]
    drawn = [random_stream(SEED, NOISE, 2, entry).standard_normal(shape, np.float32) for entry in range(100, 108)]
    noisy = np.clip(batch.images.numpy() / 255 + 0.2 * np.stack(drawn), 0, 1)
    assert np.abs(asked.numpy() - 255 * noisy).max() < 1e-3


@pytest.mark.parametrize("method", ["fgsm", "pgd", "trades", "noise"])
def test_what_is_learnt_of_an_image_depends_on_it_alone(method: str) -> None:
    """Cut into parts, in another order, next to others: the same perturbed images, so ranks do not matter."""
    batch = batch_of()
    model = Recorder(network()).train()
    objective(method, steps=2)(model, batch)
    whole = model.asked[-1]
    for chosen in ([0, 1, 2], [7, 3]):
        again = Recorder(network()).train()
        objective(method, steps=2)(again, part(batch, chosen))
        # A pixel whose slope is all but zero may go the other way by rounding.
        assert ((again.asked[-1] - whole[chosen]).abs() > 1e-3).float().mean() < 0.01
    other = Recorder(network()).train()
    later = batch_of(epoch=3)
    objective(method, steps=2)(other, later)
    assert not torch.allclose(other.asked[-1], whole, atol=0.5)


@pytest.mark.parametrize(("method", "learnt"), [("fgsm", 1), ("pgd", 1), ("trades", 2), ("noise", 1)])
def test_attacks_leave_the_network_as_they_find_it(method: str, learnt: int) -> None:
    """Only passes that are learnt from move statistics; modes stay, frozen layers too; no gradient leaks."""
    model = Recorder(network(drop_rate=0.5)).train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    kept = frozen.running_mean.clone()
    counts = [module.num_batches_tracked.item() for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    loss, _ = objective(method, steps=3)(model, batch_of())
    assert all(parameter.grad is None for parameter in model.parameters())
    after = [module.num_batches_tracked.item() for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert after == [counts[0], *(count + learnt for count in counts[1:])]
    assert frozen.running_mean.equal(kept)
    assert model.modes == [False] * (len(model.modes) - learnt) + [True] * learnt
    assert not frozen.training
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["fgsm", "pgd", "trades", "distillation", "noise"])
def test_bf16_learns_what_fp32_learns(method: str) -> None:
    """Gradients by the parameters point the same way, perturbations stay in the ball and hurt as much."""
    gradients, losses = [], []
    for precision in (torch.float32, torch.bfloat16):
        model, batch = Recorder(network()).train(), batch_of()
        teacher = network(1) if method == "distillation" else None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss, _ = objective(method, teacher=teacher, steps=3)(model, batch)
        assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        if method in ("fgsm", "pgd", "trades"):
            assert model.asked[-1].dtype == torch.float32
            assert (model.asked[-1] - batch.images).abs().max() <= 255 * EPSILON + 1e-3
        judge = network().eval()
        losses.append(functional.cross_entropy(judge(model.asked[-1]), batch.labels).item())
    assert functional.cosine_similarity(*gradients, dim=0) > 0.8
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize(
    ("method", "steps", "passes"),
    [("fgsm", 1, 1 * 2 + 3), ("pgd", 3, 3 * 2 + 3), ("trades", 3, 1 + 3 * 2 + 6), ("noise", 1, 3)],
)
def test_operations_of_a_step(method: str, steps: int, passes: int) -> None:
    """An attack's step is a forward pass and a backward pass to the pixels, and is not run backward again."""
    model, batch = network().train(), batch_of()
    with FlopCounter() as counter:
        model(batch.images)
    with FlopCounter() as forward:
        loss, _ = objective(method, steps=steps)(model, batch)
    with FlopCounter() as backward:
        loss.backward()
    assert forward.with_backward == pytest.approx(forward.total + backward.total, rel=0.05)
    assert forward.with_backward == pytest.approx(passes * counter.total, rel=0.05)


def test_epsilon_rises_with_the_epochs() -> None:
    rising = DefenceConfig("fgsm", "8/255", ramp_epochs=4)
    assert [epsilon_at(rising, epoch) * 255 for epoch in range(6)] == pytest.approx([2, 4, 6, 8, 8, 8])
    assert epsilon_at(DefenceConfig("fgsm", 0.5), 0) == 0.5
    model = Recorder(network())
    for epoch, most in ((0, 2), (7, 8)):
        batch = batch_of(epoch=epoch)
        defended(rising, TrainConfig(), 4, SEED, CPU)(model, batch)
        assert (model.asked[-1] - batch.images).abs().max().item() == pytest.approx(most, abs=1e-3)


def test_mixed_images_are_attacked_away_from_their_mixed_targets() -> None:
    batch, model = batch_of(classes=2), Linear()
    train = TrainConfig(label_smoothing=0.0, mixup=0.4)
    mixed, targets = mix(batch_of(classes=2), functional.one_hot(batch.labels, 2).float(), train, SEED)
    loss, _ = defended(DefenceConfig("pgd", EPSILON, steps=8), train, 2, SEED, CPU)(model, batch)
    logits = model(mixed)
    away = ((logits.softmax(1) - targets) @ model.weight).sign().reshape(mixed.shape)
    corner = (mixed / 255 + EPSILON * away).clamp(0, 1)
    assert loss.item() == pytest.approx(functional.cross_entropy(model(corner * 255), targets).item(), rel=1e-3)
