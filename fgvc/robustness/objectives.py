"""What a classifier learns in order to withstand attacks: objectives of `fgvc classify`.

Every draw (start, noise) is a function of (seed, epoch, entry): ranks, workers and restarts do not matter.

Attacks run with the network in evaluation mode: BatchNorm normalises by its running statistics and leaves them as they
are, dropout is off, and an image's perturbation does not depend on the rest of its batch. TRADES' authors do so, and
MadryLab/robustness; Wong et al. attack in training mode, but Pang et al. 2021 (https://arxiv.org/abs/2010.00467) find
evaluation mode as robust and more accurate. The passes that the network learns from are in training mode.

Attacks run in the step's own precision, for it is that step's loss which they are to raise; perturbed pixels are fp32.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.balance import image_weights
from fgvc.classification.config import TrainConfig
from fgvc.classification.mixing import mix, soft_targets
from fgvc.classification.teacher import soft_answers
from fgvc.models.layers import eval_mode
from fgvc.robustness.attacks import Loss, Model, pgd, random_start
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.epsilon import read_epsilon
from fgvc.runtime.flops import no_backward_follows
from fgvc.training.learner import Objective
from shards.reading.loader import Batch
from shards.reading.order import NOISE, START, random_stream

Answer = tuple[torch.Tensor, dict[str, torch.Tensor]]


def defended(
    defence: DefenceConfig, train: TrainConfig, classes: int, seed: int, device: torch.device,
    weights: torch.Tensor | None = None, teacher: nn.Module | None = None,
) -> Objective:  # fmt: skip
    """(model of images in [0, 255], Batch) -> (mean loss, figures): the `Objective` of any method but none.

    weights: (classes,), what an image of each class counts (None: all alike). teacher: distillation's, a model of uint8
    images. Mixing and label smoothing go with every method; attacks then raise the loss against the mixed, smoothed
    targets.
    """
    inputs = Inputs(train, classes, seed, device, None if weights is None else weights.to(device))
    if defence.method == "noise":
        return Noise(inputs, defence.noise)
    if defence.method == "distillation":
        return Distillation(inputs, defence.temperature, teacher)
    if defence.method == "trades":
        return Trades(inputs, defence)
    return AdversarialTraining(inputs, defence)


@dataclass(frozen=True)
class Inputs:
    """What all of them share: the batch on the device, mixed, with soft targets; its samples' seeds; the mean loss."""

    train: TrainConfig
    classes: int
    seed: int
    device: torch.device
    weights: torch.Tensor | None

    def of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W) uint8 images and (N, classes) targets."""
        batch.images = batch.images.to(self.device, non_blocking=True)
        batch.labels = batch.labels.to(self.device, non_blocking=True)
        targets = soft_targets(batch.labels, self.classes, self.train.label_smoothing)
        return mix(batch, targets, self.train, self.seed)

    def seeds(self, stream: int, batch: Batch) -> list[tuple[int, ...]]:
        pairs = zip(batch.epochs.tolist(), batch.entries.tolist(), strict=True)
        return [(self.seed, stream, epoch, entry) for epoch, entry in pairs]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy, in which images count as their classes do."""
        losses = functional.cross_entropy(logits, targets, reduction="none")
        if self.weights is not None:
            losses = losses * image_weights(targets, self.weights, self.train.label_smoothing)
        return losses.mean()


class AdversarialTraining:
    """Only attacked images are learnt: of several steps (PGD; Madry et al. 2018, https://arxiv.org/abs/1706.06083), or
    of one from a random start, 1.25 epsilon long (Wong et al. 2020, https://arxiv.org/abs/2001.03994)."""

    def __init__(self, inputs: Inputs, defence: DefenceConfig) -> None:
        self.inputs, self.defence = inputs, defence

    def __call__(self, model: nn.Module, batch: Batch) -> Answer:
        images, targets = self.inputs.of(batch)
        attacked = attack(
            model, images, cross_entropy_with(targets), self.defence, int(batch.epochs[0]),
            self.inputs.seeds(START, batch),
        )  # fmt: skip
        logits = of_pixels(model)(attacked).float()
        return self.inputs.loss(logits, targets), {"robust_top1": _top1(logits, batch)}


class Trades:
    """The loss on clean images, and beta times the divergence of the attacked images' answers from theirs (Zhang et al.
    2019, https://arxiv.org/abs/1901.08573). The attack raises that divergence."""

    def __init__(self, inputs: Inputs, defence: DefenceConfig) -> None:
        self.inputs, self.defence = inputs, defence

    def __call__(self, model: nn.Module, batch: Batch) -> Answer:
        images, targets = self.inputs.of(batch)
        with no_backward_follows(), eval_mode(model), torch.no_grad():
            believed = model(images).float().softmax(1)
        # Where the clean answers stand still, their cross-entropy and their divergence have the same gradient.
        attacked = attack(
            model, images, cross_entropy_with(believed), self.defence, int(batch.epochs[0]),
            self.inputs.seeds(START, batch),
        )  # fmt: skip
        clean, moved = model(images).float(), of_pixels(model)(attacked).float()
        apart = functional.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
        loss = self.inputs.loss(clean, targets) + self.defence.beta * apart
        return loss, {"top1": _top1(clean, batch), "robust_top1": _top1(moved, batch)}


class Distillation(nn.Module):
    """Logits divided by a temperature learn the answers, softened alike, of a teacher that was trained so on the labels
    (Papernot et al. 2016, https://arxiv.org/abs/1511.04508). Without a teacher: that first training.

    It makes gradients vanish and little else (Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644).
    """

    def __init__(self, inputs: Inputs, temperature: float, teacher: nn.Module | None) -> None:
        super().__init__()
        self.inputs, self.temperature = inputs, temperature
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def forward(self, model: nn.Module, batch: Batch) -> Answer:
        images, targets = self.inputs.of(batch)
        if self.teacher is not None:
            targets = soft_answers(self.teacher, images, self.temperature)
        logits = model(images).float()
        return self.inputs.loss(logits / self.temperature, targets), {"top1": _top1(logits, batch)}


class Noise:
    """Images with Gaussian noise, kept within the range of pixels: no attack is in it."""

    def __init__(self, inputs: Inputs, deviation: float) -> None:
        self.inputs, self.deviation = inputs, deviation

    def __call__(self, model: nn.Module, batch: Batch) -> Answer:
        images, targets = self.inputs.of(batch)
        shape = images.shape[1:]
        drawn = [random_stream(*seed).standard_normal(shape, np.float32) for seed in self.inputs.seeds(NOISE, batch)]
        noise = torch.from_numpy(np.stack(drawn)).to(self.inputs.device)
        logits = of_pixels(model)((images / 255 + self.deviation * noise).clamp(0, 1)).float()
        return self.inputs.loss(logits, targets), {"top1": _top1(logits, batch)}


def attack(
    model: nn.Module, images: torch.Tensor, loss: Loss, defence: DefenceConfig, epoch: int, seeds: list[tuple[int, ...]]
) -> torch.Tensor:
    """(N, 3, H, W) uint8 images as training meets them in an epoch: attacked from a random start, in [0, 1]."""
    pixels, epsilon = images / 255, epsilon_at(defence, epoch)
    steps, length = attack_steps(defence)
    with no_backward_follows(), eval_mode(model):
        start = random_start(pixels, epsilon, "linf", seeds)
        return pgd(of_pixels(model), pixels, loss, epsilon, steps=steps, step_size=length * epsilon, start=start)


def epsilon_at(defence: DefenceConfig, epoch: int) -> float:
    """The attack's size in an epoch (from 0): it reaches its full size in the last epoch of the ramp."""
    whole = read_epsilon(defence.epsilon, key="defence.epsilon")
    return whole * min(1.0, (epoch + 1) / defence.ramp_epochs) if defence.ramp_epochs else whole


def attack_steps(defence: DefenceConfig) -> tuple[int, float]:
    """How many steps the attack of training has, and how long one is as a share of epsilon."""
    steps = 1 if defence.method == "fgsm" else defence.steps
    return steps, defence.step or (1.25 if steps == 1 else 2.5 / steps)


def of_pixels(model: nn.Module) -> Model:
    """A model of images in [0, 255] as attacks take it, of images in [0, 1]."""
    return lambda images: model(images * 255)


def cross_entropy_with(targets: torch.Tensor) -> Loss:
    """logits -> (N,) cross-entropy with (N, classes) targets, in fp32."""
    return lambda logits: functional.cross_entropy(logits.float(), targets, reduction="none")


def _top1(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (logits.detach().argmax(1) == batch.labels).float().mean()
