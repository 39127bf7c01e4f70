"""The estimate against tensors that are there: a real learner's, and those that a real forward pass saves."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from fgvc.classification.config import TrainConfig
from fgvc.generation.game import Game
from fgvc.generation.networks.create import create_networks
from fgvc.models.config import ModelConfig
from fgvc.models.layers import checkpoint_gradients
from fgvc.models.lora import add_lora
from fgvc.models.normalised import Normalised
from fgvc.models.timm import create_model
from fgvc.training.config import OptimConfig
from fgvc.training.estimate import Counted, count, peak, per_rank, saved_by
from fgvc.training.learner import SupervisedLearner
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import create_accelerator
from jobs.cli import main
from jobs.config import load_job
from jobs.tasks.estimate import COUNTERS, UNKNOWN
from shards.reading.loader import Batch

CASES = [
    ("test_vit", {}, OptimConfig(method="adamw")),
    ("test_vit", {"grad_checkpointing": True}, OptimConfig(method="adamw")),
    ("test_vit", {"method": "lora", "lora_rank": 4}, OptimConfig(method="adamw")),
    ("test_resnet", {"ema": 0.9}, OptimConfig(method="sgd")),
]


BLOCKS = ("Block", "ConvNeXtBlock", "BasicBlock", "Bottleneck", "ConvBnAct", "EdgeResidual", "InvertedResidual")


@pytest.fixture(autouse=True)
def any_precision() -> Iterator[None]:
    """accelerate keeps a process to its first precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def bytes_of(tensors: Any) -> int:
    return sum(one.nbytes for one in tensors if torch.is_tensor(one) and one.ndim)


@pytest.mark.parametrize(("name", "train", "optim"), CASES)
def test_it_counts_what_a_real_learner_holds(name: str, train: dict, optim: OptimConfig) -> None:
    config = TrainConfig(**train, precision="bf16", batch=6)
    with torch.device("meta"):
        hollow = create_model(ModelConfig(name, "none"), 5)
        if config.method == "lora":
            add_lora(hollow, config.lora_rank)
    network = create_model(ModelConfig(name, "none"), 5)
    if config.method == "lora":
        add_lora(network, config.lora_rank)
    for one in (hollow, network):
        if config.grad_checkpointing:
            checkpoint_gradients(one)
    counted = count(hollow.train(), optim, config, 160)

    whole = Normalised(network, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    def objective(model: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, dict]:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            answers = model(batch)
        return answers.float().square().mean(), {}

    accelerator = create_accelerator("bf16", False)
    learner = SupervisedLearner(network, whole, objective, optim, config, Schedule(10, 10), accelerator)
    learner.learn([torch.zeros(6, 3, 160, 160, dtype=torch.uint8)])
    player = learner.player
    parameters = bytes_of(player.network.parameters())
    assert counted.parameters == pytest.approx(parameters + bytes_of(player.network.buffers()), rel=0.001)
    assert counted.trainable == bytes_of(player.trainable)
    states = [value for state in player.strategy.optimizer.state.values() for value in state.values()]
    assert counted.optimizer == bytes_of(states)
    average = player.average.tensors.values() if player.average is not None else []
    assert counted.average == pytest.approx(bytes_of(average), rel=0.001)
    own = {one.untyped_storage().data_ptr() for one in network.parameters()}
    activations = sum(storage.nbytes() for place, storage in saved.items() if place not in own)
    kept = counted.saved[0] + 6 * counted.saved[1]
    assert kept == pytest.approx(activations, rel=0.05)
    assert activations > 1_000_000 * (1 if config.grad_checkpointing else 3)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet"])
def test_checkpointed_gradients_compute_the_largest_block_again(name: str) -> None:
    config, optim = TrainConfig(batch=6), OptimConfig()
    with torch.device("meta"):
        network = create_model(ModelConfig(name, "none"), 5).train()
    plain = count(network, optim, config, 160)
    checkpoint_gradients(network)
    found = count(network, optim, replace(config, grad_checkpointing=True), 160)
    assert found.activations(6) < 0.95 * plain.activations(6)

    real = create_model(ModelConfig(name, "none"), 5).train()
    blocks = [module for module in real.modules() if type(module).__name__ in BLOCKS]
    inputs: dict[Any, torch.Tensor] = {}
    for block in blocks:
        block.register_forward_pre_hook(lambda module, given: inputs.setdefault(module, given[0]))
    real(torch.rand(6, 3, 160, 160))
    kept = [saved_by(partial(block, inputs[block]), [block]) for block in blocks]
    assert 6 * found.again == pytest.approx(max(kept), rel=0.1)


def test_what_each_strategy_shares_out() -> None:
    counted = Counted(parameters=400, trainable=400, optimizer=800, average=400, unit=10, saved=(0, 50))
    ddp, zero2, fsdp = (per_rank(counted, one, 4, 2, 1) for one in ("ddp", "zero2", "fsdp"))
    assert (ddp["parameters"], ddp["gradients"], ddp["optimizer"], ddp["average"]) == (400, 400, 800, 400)
    assert (zero2["parameters"], zero2["gradients"], zero2["optimizer"], zero2["average"]) == (400, 100, 300, 400)
    assert (fsdp["parameters"], fsdp["gradients"], fsdp["optimizer"], fsdp["average"]) == (100, 100, 200, 100)
    assert peak(fsdp) == 100 + 200 + 100 + 20 + 100
    assert peak(per_rank(counted, "fsdp", 4, 2, accumulation=2)) == 100 + 200 + 100 + 20 + 100 + 100
    assert per_rank(counted, "zero3", 1, 2, 1) == per_rank(counted, "ddp", 1, 2, 1)


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    words = ["classify", "data.shards=nowhere", "model.name=test_vit", "model.weights=none", "optim.method=adamw"]
    assert main([*words, "--estimate"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("fits: 1 x 8 GB")
    assert [line.split()[0] for line in said.splitlines()[2:8]] == ["ddp", "ddp", "zero1", "zero2", "zero3", "fsdp"]
    assert main([*words, "--on", "a100", "--estimate"]) == 0  # submits nothing
    assert capsys.readouterr().out == said
    assert main([*words, "train.method=probe", "--estimate"]) == 2
    assert main(["evaluate", "weights=a.safetensors", "data.shards=nowhere", "--estimate"]) == 2
    assert "counts training, classify, detect, gan, not fgvc evaluate" in capsys.readouterr().err


def test_both_networks_of_a_gan_are_counted() -> None:
    small = [
        "data.shards=nowhere",
        "model.name=dcgan",
        "model.size=32",
        "model.width=8",
        "train.r1=1",
        "train.loss=hinge",
    ]
    config = load_job("gan", None, small)
    found, _, strategies = COUNTERS["gan"](config)
    assert strategies == ["ddp"]
    networks = create_networks(config.model, UNKNOWN, 0)
    both = [networks.generator, networks.judge]
    assert found.trainable == bytes_of(one for network in both for one in network.parameters())
    game = Game(config.model, config.train, 0, torch.device("cpu"))
    models = {"generator": networks.generator, "discriminator": networks.judge}
    batch = Batch(torch.zeros(6, 3, 32, 32, dtype=torch.uint8), *[torch.zeros(6, dtype=torch.int64)] * 3)
    kept = [saved_by(partial(phase.loss, models, batch), both) for phase in game.phases()]
    assert found.activations(6) == pytest.approx(max(kept), rel=0.02)


def test_a_detector_is_counted_on_real_images() -> None:
    small = [
        "data.shards=nowhere",
        "model.backbone=test_efficientnet",
        "model.weights=none",
        "image.size=64",
        "optim.method=adamw",
    ]
    found, _, strategies = COUNTERS["detect"](load_job("detect", None, small))
    assert "zero3" not in strategies
    assert found.activations(4) == pytest.approx(2 * found.activations(2), rel=0.05)
    assert found.optimizer == found.trainable * 2


def test_passes_kept_side_by_side_and_larger_sizes_are_counted(capsys: pytest.CaptureFixture) -> None:
    def activations(*more: str) -> float:
        words = [
            "classify",
            "data.shards=nowhere",
            "model.name=test_resnet",
            "model.weights=none",
            "image.size=64",
            "optim.method=adamw",
        ]
        assert main([*words, "train.batch=256", *more, "--estimate"]) == 0
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        return float(table[2][table[1].index("activations")])

    plain = activations()
    assert activations("train.attention_crops=true") == pytest.approx(3 * plain, rel=0.05)
    assert activations("defence.method=trades") == pytest.approx(2 * plain, rel=0.05)
    assert activations("image.sizes=[64,128]") == pytest.approx(4 * plain, rel=0.1)
