"""An objective may hold parameters of its own, and call the bare network as often as it likes."""

from pathlib import Path

import proxy_run
import pytest
import torch
from places import HELPERS
from ranks import run_ranks
from torch import nn

from fgvc.models.layers import classifier_names
from fgvc.models.normalised import Normalised
from fgvc.training.checkpoint import latest_valid, save
from fgvc.training.config import LoopConfig
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import check_strategy, create_accelerator
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.loader import Batch


@pytest.fixture
def trained(guide: Manifest) -> proxy_run.SupervisedLearner:
    learner = proxy_run.make()
    proxy_run.train(learner, guide.folder)
    return learner


def test_they_are_trained_at_the_heads_rate_and_averaged(guide: Manifest) -> None:
    learner = proxy_run.make()
    before = learner.player.network.state_dict()["objective.weight"].clone()
    groups = {name: group for group in learner.player.strategy.optimizer.param_groups for name in group["names"]}
    assert groups["objective.weight"]["lr_scale"] == 5
    assert groups["conv1.0.weight"]["lr_scale"] == 1
    proxy_run.train(learner, guide.folder)
    after = learner.player.network.state_dict()["objective.weight"]
    average = learner.player.average
    assert average is not None
    assert not torch.equal(before, after)
    assert not torch.equal(average.tensors["objective.weight"], after)


def test_the_exported_network_is_without_them(trained: proxy_run.SupervisedLearner) -> None:
    plain = proxy_run.timm.create_model("test_resnet", num_classes=0)
    plain.load_state_dict(trained.eval_network().state_dict(), strict=True)


def test_resumed_exactly(guide: Manifest, tmp_path: Path, trained: proxy_run.SupervisedLearner) -> None:
    first = proxy_run.make()
    proxy_run.train(first, guide.folder, until=3)
    save(tmp_path, first.step, first.state())
    resumed = proxy_run.make(latest_valid(tmp_path))
    assert resumed.step == 3
    proxy_run.train(resumed, guide.folder)
    left, right = (one.player.state(keep=True) for one in (trained, resumed))
    for part in ("weights", "average"):
        assert [name for name in left[part] if not left[part][name].equal(right[part][name])] == []


def test_two_ranks_learn_what_one_learns(guide: Manifest, tmp_path: Path) -> None:
    for ranks in (1, 2):
        run_ranks(tmp_path, [str(HELPERS / "proxy_run.py"), str(guide.folder), str(tmp_path / f"{ranks}.pt")], ranks)
    one, two = (torch.load(tmp_path / f"{ranks}.pt", weights_only=True) for ranks in (1, 2))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=2e-5) for name in one)


def test_strategies_that_cannot_train_them_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for strategy in ("fsdp", "zero2"):
        with pytest.raises(UserError, match="cannot train an objective's own parameters; take ddp"):
            check_strategy(LoopConfig(strategy=strategy), objective_parameters=True)  # type: ignore[arg-type]


class Centres(nn.Module):
    """Buffers that move, and a teacher that must not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(4, width))
        self.teacher = proxy_run.timm.create_model("test_resnet", num_classes=4).eval().requires_grad_(False)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = model(batch.images)
        self.teacher(batch.images.float())
        with torch.no_grad():
            self.centres.index_add_(0, batch.labels, features.detach())
        return (features - self.centres[batch.labels]).square().mean(), {}


def test_buffers_are_saved_and_a_frozen_teacher_is_left_alone(guide: Manifest, tmp_path: Path) -> None:
    def make(found: Path | None = None) -> tuple[proxy_run.SupervisedLearner, Centres]:
        torch.manual_seed(0)
        network = proxy_run.timm.create_model("test_resnet", num_classes=0)
        objective = Centres(network.num_features)
        ones = torch.ones(1, 3, 1, 1)
        whole = Normalised(network, 0 * ones, ones, channels_last=False)
        schedule = Schedule(proxy_run.STEPS, proxy_run.STEPS)
        accelerator = create_accelerator("fp32", True)
        learner = proxy_run.SupervisedLearner(
            network, whole, objective, proxy_run.OPTIM, proxy_run.LOOP, schedule, accelerator, found
        )
        return learner, objective

    learner, objective = make()
    teacher = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    proxy_run.train(learner, guide.folder, until=3)
    save(tmp_path, learner.step, learner.state())
    assert not objective.teacher.training
    assert all(teacher[name].equal(tensor) for name, tensor in objective.teacher.state_dict().items())
    saved = learner.player.state(keep=True)["weights"]
    assert [name for name in saved if name.startswith("objective")] == ["objective.centres"]
    assert saved["objective.centres"].abs().sum() > 0
    resumed, other = make(latest_valid(tmp_path))
    assert other.centres.equal(objective.centres)
    for one in (learner, resumed):
        proxy_run.train(one, guide.folder)
    assert other.centres.equal(objective.centres)
    assert classifier_names(learner.eval_network()) == classifier_names(
        proxy_run.timm.create_model("test_resnet", num_classes=0)
    )
