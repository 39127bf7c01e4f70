"""`fgvc classify CONFIG --estimate`: the memory that a training run takes, counted before it is run."""

import logging
from dataclasses import replace
from typing import Any

import torch

from fgvc.classification.evaluation import image_sizes
from fgvc.models.attentive import freeze_all_but_pool, with_attention
from fgvc.models.config import ModelConfig
from fgvc.models.layers import checkpoint_gradients, freeze_batch_norm, freeze_layers
from fgvc.models.lora import add_lora
from fgvc.models.timm import create_model, input_size
from fgvc.training.estimate import Counted, count, peak, per_rank
from shards.errors import UserError
from shards.paths import MANIFEST, expand, is_remote
from shards.remote import open_manifest

CARDS_GB = (8, 16, 24, 40, 80, 141)
SPARE = 0.9  # of a card's memory: the rest goes to CUDA itself and to gaps between tensors
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
KINDS = ("parameters", "gradients", "optimizer", "average", "exchange", "activations")
UNKNOWN = 200  # classes, where there are no shards yet


def report(job: str, config: Any) -> str:
    """A table of strategies and ranks, and what it fits on. Raises UserError for jobs that it cannot count."""
    if job != "classify":
        raise UserError(f"--estimate: counts fgvc classify, not fgvc {job}")
    counted, name = _count(config), config.model.name
    batch, accumulation = config.train.batch, config.train.accumulation
    lines = [
        f"{name}, {config.train.method}, {config.train.precision}, train.batch={batch}, "
        f"train.accumulation={accumulation}: GiB on every rank at its fullest",
        f"{'strategy':9}{'ranks':>6}{'images':>7}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'peak':>8}",
    ]
    fits: dict[int, str] = {}
    for ranks in (1, 2, 4, 8):
        for strategy in STRATEGIES if ranks > 1 else ("ddp",):
            micro, rest = divmod(batch, ranks * accumulation)
            if rest or not micro:
                continue
            held = per_rank(counted, strategy, ranks, micro, accumulation)
            gib = peak(held) / 2**30
            kinds = "".join(f"{held[kind] / 2**30:12.2f}" for kind in KINDS)
            lines.append(f"{strategy:9}{ranks:6}{micro:7}{kinds}{gib:8.2f}")
            card = next((size for size in CARDS_GB if gib < SPARE * size * 1e9 / 2**30), None)
            if card is not None:
                fits.setdefault(card, f"{ranks} x {card} GB" + (f" with {strategy}" if ranks > 1 else ""))
    best = [fits[card] for card in sorted(fits, reverse=True)]
    said = "; ".join(best) if best else "none of these; raise train.accumulation or set train.grad_checkpointing=true"
    return "\n".join([*lines, f"fits: {said}"])


def _count(config: Any) -> Counted:
    data, train = config.data, config.train
    if train.method == "probe":
        raise UserError("--estimate: a probe trains nothing on the device; its features take what evaluation takes")
    local = data.shards and "$" not in data.shards and not is_remote(data.shards)
    there = is_remote(data.shards) or (local and (expand(data.shards, "data.shards") / MANIFEST).is_file())
    if not there:
        logging.warning("no shards at data.shards=%s yet: counted for %d classes", data.shards, UNKNOWN)
    classes = len(open_manifest(data.shards, "data.shards", data.cache).classes) if there else UNKNOWN
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
    counted = count(network, config.optim, train, size)
    if train.attention_crops:  # three passes, whose tensors are kept until the one backward pass
        counted = replace(counted, saved=(counted.saved[0], 3 * counted.saved[1]))
    return counted


def _without_weights(model: ModelConfig) -> ModelConfig:
    return ModelConfig(
        model.name, "none", model.kwargs, model.drop_rate, model.drop_path, caffe_stride=model.caffe_stride
    )
