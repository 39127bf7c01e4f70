"""`fgvc classify|detect|gan CONFIG --estimate`: the memory that a training run takes, counted before it is run."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fgvc.classification.evaluation import image_sizes
from fgvc.generation.game import Game
from fgvc.generation.networks.create import create_networks
from fgvc.models.attentive import freeze_all_but_pool, with_attention
from fgvc.models.config import ModelConfig
from fgvc.models.layers import checkpoint_gradients, freeze_batch_norm, freeze_layers
from fgvc.models.lora import add_lora
from fgvc.models.timm import create_model, input_size
from fgvc.runtime.device import autocast
from fgvc.training.estimate import Counted, count, counted, peak, per_rank, saved_by, weights
from shards.errors import UserError
from shards.paths import MANIFEST, expand, is_remote
from shards.reading.detection import BoxedBatch
from shards.reading.loader import Batch
from shards.remote import open_manifest

CARDS_GB = (8, 16, 24, 40, 80, 141)
SPARE = 0.9  # of a card's memory: the rest goes to CUDA itself and to gaps between tensors
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
KINDS = ("parameters", "gradients", "optimizer", "average", "exchange", "activations")
UNKNOWN = 200  # classes, where there are no shards yet


def report(job: str, config: Any) -> str:
    """A table of strategies and ranks, and what it fits on. Raises UserError for jobs that do not train."""
    if job not in COUNTERS:
        raise UserError(f"--estimate: counts training, {', '.join(COUNTERS)}, not fgvc {job}")
    found, name, strategies = COUNTERS[job](config)
    batch, accumulation = config.train.batch, config.train.accumulation
    lines = [
        f"{name}, {config.train.precision}, train.batch={batch}, train.accumulation={accumulation}: GiB on every rank "
        "at its fullest",
        f"{'strategy':9}{'ranks':>6}{'images':>7}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'peak':>8}",
    ]
    fits: dict[int, str] = {}
    for ranks in (1, 2, 4, 8):
        for strategy in strategies if ranks > 1 else ("ddp",):
            micro, rest = divmod(batch, ranks * accumulation)
            if rest or not micro:
                continue
            held = per_rank(found, strategy, ranks, micro, accumulation)
            gib = peak(held) / 2**30
            kinds = "".join(f"{held[kind] / 2**30:12.2f}" for kind in KINDS)
            lines.append(f"{strategy:9}{ranks:6}{micro:7}{kinds}{gib:8.2f}")
            card = next((size for size in CARDS_GB if gib < SPARE * size * 1e9 / 2**30), None)
            if card is not None:
                fits.setdefault(card, f"{ranks} x {card} GB" + (f" with {strategy}" if ranks > 1 else ""))
    best = [fits[card] for card in sorted(fits, reverse=True)]
    less = " or set train.grad_checkpointing=true" if job == "classify" else ""
    said = "; ".join(best) if best else f"none of these; raise train.accumulation{less}"
    return "\n".join([*lines, f"fits: {said}"])


Found = tuple[Counted, str, Sequence[str]]  # what is held, of what, under which strategies it trains


def _classifier(config: Any) -> Found:
    train = config.train
    if train.method == "probe":
        raise UserError("--estimate: a probe trains nothing on the device; its features take what evaluation takes")
    classes = _classes(config.data)
    with torch.device("meta"):
        attentive = train.method == "attentive"
        network = create_model(_without_weights(with_attention(config.model) if attentive else config.model), classes)
        if attentive:
            freeze_all_but_pool(network)
        if train.method == "lora":
            add_lora(network, train.lora_rank)
    if train.grad_checkpointing:
        checkpoint_gradients(network)
    size = max(image_sizes(config.image, input_size(network))[0], *config.image.sizes, 0)
    network.train()
    freeze_batch_norm(network, train.freeze_bn)
    freeze_layers(network, train.freeze_layers)
    found = count(network, config.optim, train, size)
    # Passes that are all kept until the one backward pass: of an image and its two parts, or of it clean and attacked.
    passes = 3 if train.attention_crops else 2 if config.defence.method == "trades" else 1
    found = replace(found, saved=(found.saved[0], passes * found.saved[1]))
    return found, f"{config.model.name}, {train.method}", STRATEGIES


def _detector(config: Any) -> Found:
    """Counted on one image and on two, really: which proposals a detector keeps cannot be told from shapes."""
    from fgvc.detection.detector import Detector
    from fgvc.detection.models import create_detector

    classes = 1 if config.model.class_agnostic else _classes(config.data)
    network = create_detector(config.model, classes, backbone_weights=False).train()
    detector, size = Detector(network, config.train.channels_last), config.image.size
    box = torch.tensor([[size / 4, size / 4, size * 3 / 4, size * 3 / 4]])

    def saved(images: int) -> int:
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
        label, none = torch.zeros(1, dtype=torch.int64), torch.zeros(images)
        batch = BoxedBatch(pixels, [box] * images, [label] * images, none, none, none)

        def forward() -> None:
            with autocast(pixels.device, config.train.precision):
                detector(batch)

        return saved_by(forward, [network])

    found = counted([weights(network, config.optim, config.train.ema)], {1: saved(1), 2: saved(2)})
    name = f"{config.model.architecture} on {config.model.backbone}, {size} px"
    return found, name, [strategy for strategy in STRATEGIES if strategy != "zero3"]


def _gan(config: Any) -> Found:
    """Both players' weights, and of the phases' tensors the most: they move one after the other."""
    classes = 1 if config.only else _classes(config.data)
    model = replace(config.model, backbone_weights="none", conditional=config.model.conditional and not config.only)
    batches = {images: _drawn(images, model.size) for images in (2, 4)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        networks = create_networks(model, classes, config.seed)
        game = Game(model, config.train, config.seed, torch.device("cpu"))
        models = {"generator": networks.generator.train(), "discriminator": networks.judge}
        networks.discriminator.train()
        for one in models.values():
            one.forward = autocast(torch.device("cpu"), config.train.precision)(one.forward)
        saved = {
            images: max(saved_by(partial(phase.loss, models, batch), list(models.values())) for phase in game.phases())
            for images, batch in batches.items()
        }
    players = [
        weights(networks.generator, config.generator, config.train.ema),
        weights(networks.discriminator, config.discriminator, 0.0, whole=networks.judge),
    ]
    return counted(players, saved), f"{model.name}, {model.size} px", ["ddp"]


COUNTERS: dict[str, Callable[[Any], Found]] = {"classify": _classifier, "detect": _detector, "gan": _gan}


def _drawn(images: int, size: int) -> Batch:
    nothing = torch.zeros(images, dtype=torch.int64)
    return Batch(torch.zeros(images, 3, size, size, dtype=torch.uint8), nothing, nothing, nothing)


def _classes(data: Any) -> int:
    """How many classes the shards have, where they are there."""
    local = data.shards and "$" not in data.shards and not is_remote(data.shards)
    there = is_remote(data.shards) or (local and (expand(data.shards, "data.shards") / MANIFEST).is_file())
    if not there:
        logging.warning("no shards at data.shards=%s yet: counted for %d classes", data.shards, UNKNOWN)
    return len(open_manifest(data.shards, "data.shards", data.cache).classes) if there else UNKNOWN


def _without_weights(model: ModelConfig) -> ModelConfig:
    return ModelConfig(
        model.name, "none", model.kwargs, model.drop_rate, model.drop_path, caffe_stride=model.caffe_stride
    )
