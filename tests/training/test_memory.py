"""Out of memory in a step: one line, exit code 2, and a micro-batch that really fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import proxy_run
import pytest
import torch

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import Tracker
from fgvc.training.config import LoopConfig
from fgvc.training.loop import fit
from fgvc.training.memory import (
    first_of,
    is_out_of_memory,
    largest_that_fits,
    memory_is_named,
    memory_is_named_outside_steps,
)
from fgvc.training.schedule import Schedule
from shards.errors import UserError
from shards.reading.loader import Batch

TOO_MUCH = 1 << 55  # bytes; more than the address space of a process


@dataclass
class Images:
    images: torch.Tensor
    boxes: list[int]
    note: str = "kept"


class Limited:
    """A learner whose passes hold `most` images; more are refused by the allocator itself."""

    def __init__(self, most: int) -> None:
        self.most, self.tried = most, list[int]()

    def rehearse(self, batch: Images) -> None:
        assert len(batch.images) == len(batch.boxes)
        self.tried.append(len(batch.images))
        if len(batch.images) > self.most:
            torch.empty(TOO_MUCH, dtype=torch.uint8)


def message(learner: Any, config: LoopConfig, images: int) -> str:
    batch = Images(torch.zeros(images, 3), list(range(images)))
    with pytest.raises(UserError) as caught, memory_is_named(learner, config, [batch]):
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_fits_is_tried_out() -> None:
    learner = Limited(9)
    said = message(learner, LoopConfig(batch=72), 72)
    assert learner.tried == [36, 18, 8]
    assert "no micro-batch of 72 images; 8 fit: set train.accumulation=9 (8 images at a time)" in said


def test_accumulation_divides_the_batch_and_keeps_pairs() -> None:
    assert "set train.accumulation=10 (6 images" in message(Limited(6), LoopConfig(batch=60), 60)
    assert "set train.accumulation=25 (4 images" in message(Limited(6), LoopConfig(batch=100), 100)  # not 20 of 5
    assert "set train.accumulation=16 (2 images" in message(Limited(3), LoopConfig(batch=32, accumulation=2), 16)


def test_where_it_cannot_be_tried_half_is_named_and_where_nothing_fits_other_ways() -> None:
    assert "half of that may fit: set train.accumulation=2 (16 images" in message(object(), LoopConfig(batch=32), 32)
    said = message(Limited(0), LoopConfig(batch=4), 4)
    assert "not even one fits: take train.strategy=fsdp on several ranks" in said
    assert "train.precision=bf16" in said
    assert "bf16" not in message(Limited(0), LoopConfig(batch=4, precision="bf16"), 4)


def test_a_learner_tries_on_its_own_objective(tmp_path: Path) -> None:
    """Two of eight images fit the objective; the state that AdamW would add is held meanwhile."""

    class Hungry(proxy_run.Proxies):
        def forward(self, model: torch.nn.Module, batch: Batch) -> Any:
            if len(batch.images) > 3:
                torch.empty(TOO_MUCH, dtype=torch.uint8)
            return super().forward(model, batch)

    learner = proxy_run.make()
    learner._step.objective = Hungry(4, learner.player.network.num_features)
    count = torch.arange(8)
    batch = Batch(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), count % 4, count, count * 0)
    before = {name: one.clone() for name, one in learner.player.network.state_dict().items() if "running" not in name}
    tracker = Tracker(TrackConfig(wandb="disabled"), tmp_path, "classify", "hungry", {})
    with pytest.raises(UserError, match=r"2 fit: set train.accumulation=4 \(2 images at a time\)"):
        fit(learner, iter([batch]), LoopConfig(batch=8), Schedule(1, 1), tmp_path, tracker)
    assert all(one.equal(learner.player.network.state_dict()[name]) for name, one in before.items())


def test_outside_a_step() -> None:
    said = r"out of memory outside a training step, on this machine: .*smaller image\.size"
    with pytest.raises(UserError, match=said), memory_is_named_outside_steps():
        torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_is_named(Limited(1), LoopConfig(), []):
        raise RuntimeError("shapes do not fit")
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="else"):
        largest_that_fits(lambda count: (_ for _ in ()).throw(RuntimeError("something else")), 4)


def test_a_part_of_a_batch() -> None:
    part = first_of(Images(torch.arange(6), [0, 1, 2, 3, 4, 5]), 6, 2)
    assert part.images.tolist() == part.boxes == [0, 1]
    assert part.note == "kept"
