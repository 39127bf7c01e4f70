"""Two networks against each other in the loop: resumed exactly from a kill in any phase, on one rank and on two."""

import json
import math
import signal
from pathlib import Path

import adversarial_run as tiny
import pytest
import torch
from accelerate import Accelerator
from places import HELPERS
from ranks import run_ranks
from same_run import history

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import Tracker
from fgvc.training.adversarial import AdversarialLearner, Phase
from fgvc.training.config import LoopConfig
from fgvc.training.curves import Panel, plot_training_curves
from fgvc.training.loop import fit
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import check_strategy
from shards.errors import UserError
from shards.manifest import Manifest


def start(guide: Manifest, folder: Path, ranks: int, workers: int, kill: str = "") -> None:
    words = [
        str(HELPERS / "adversarial_run.py"),
        str(guide.folder),
        str(folder),
        str(workers),
        *([kill] if kill else []),
    ]
    codes = run_ranks(folder, words, ranks)
    assert codes == [-signal.SIGKILL if kill else 0] * ranks


def assert_same(one: Path, other: Path) -> None:
    left, right = (torch.load(run / "networks.pt", weights_only=True) for run in (one, other))
    for name in ("generator", "discriminator"):
        assert left[name].keys() == right[name].keys()
        assert [key for key in left[name] if not left[name][key].equal(right[name][key])] == []
    assert [row["step"] for row in history(other)] == list(range(1, tiny.STEPS + 1))
    assert history(one) == history(other)


WORKERS = {1: 0, 2: 2}  # of so many ranks


@pytest.fixture(scope="module")
def undisturbed(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """ranks -> the folder of a run left alone."""
    folders = {ranks: tmp_path_factory.mktemp("undisturbed") for ranks in WORKERS}
    for ranks, folder in folders.items():
        start(guide, folder, ranks, WORKERS[ranks])
    return folders


@pytest.mark.parametrize(("ranks", "kills"), [(1, ["generator:4", "penalty:6"]), (2, ["discriminator:5"])])
def test_a_kill_in_any_phase_changes_no_bit(
    guide: Manifest, tmp_path: Path, undisturbed: dict[int, Path], ranks: int, kills: list[str]
) -> None:
    workers = WORKERS[ranks]
    for kill in kills:
        start(guide, tmp_path / "killed", ranks, workers, kill)
        steps = len(history(tmp_path / "killed"))
        assert steps == int(kill.split(":")[1])
    start(guide, tmp_path / "killed", ranks, workers)
    assert_same(undisturbed[ranks], tmp_path / "killed")


def test_it_learns_what_a_loop_by_hand_learns(guide: Manifest, tmp_path: Path) -> None:
    """Ten steps of plain torch: three backward passes and steps, two optimizers, two averages."""
    accelerator, schedule = Accelerator(cpu=True), Schedule(tiny.STEPS, tiny.STEPS)
    learner = AdversarialLearner(tiny.setups(), tiny.PHASES, tiny.LOOP, schedule, accelerator)
    tracker = Tracker(TrackConfig(wandb="disabled"), tmp_path, "gan", "tiny", {})
    fit(learner, tiny.loader(str(guide.folder), 0, 0), tiny.LOOP, schedule, tmp_path, tracker)
    tracker.close()

    setups = tiny.setups()
    networks = {name: setup.network for name, setup in setups.items()}
    optimizers = {
        name: torch.optim.AdamW(
            [{"params": [p for p in setup.network.parameters() if p.ndim > 1], "weight_decay": 1e-4},
             {"params": [p for p in setup.network.parameters() if p.ndim <= 1], "weight_decay": 0.0}],
            lr=setup.optim.lr, betas=(setup.optim.beta1, setup.optim.beta2),
        )
        for name, setup in setups.items()
    }  # fmt: skip
    averages = {name: {k: v.clone() for k, v in one.state_dict().items()} for name, one in networks.items()}
    batches, moves = tiny.loader(str(guide.folder), 0, 0), dict.fromkeys(networks, 0)
    for step in range(tiny.STEPS):
        pair = [next(batches), next(batches)]
        for phase in tiny.PHASES:
            if step % phase.every:
                continue
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            (sum(phase.loss(networks, batch)[0] for batch in pair) / 2).backward()
            optimizers[phase.player].step()
            moves[phase.player] += 1
            decay = min(setups[phase.player].ema, 1 - moves[phase.player] ** -0.75)
            for key, value in networks[phase.player].state_dict().items():
                averages[phase.player][key].lerp_(value, 1 - decay)
    for name, network in networks.items():
        found = learner.players[name].network.state_dict()
        assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in network.state_dict().items()), name
        average = learner.eval_network(name).state_dict()
        assert all(torch.allclose(average[key], value, atol=1e-5) for key, value in averages[name].items()), name
        assert not all(torch.allclose(average[key], found[key], atol=1e-5) for key in found), name


def test_two_ranks_learn_what_one_learns(undisturbed: dict[int, Path]) -> None:
    left, right = (torch.load(undisturbed[ranks] / "networks.pt", weights_only=True) for ranks in (1, 2))
    for name in left:
        assert all(torch.allclose(left[name][key], right[name][key], atol=1e-5) for key in left[name]), name
    for one, two in zip(history(undisturbed[1]), history(undisturbed[2]), strict=True):
        assert one.keys() == two.keys()
        assert {"loss_generator", "loss_discriminator"} <= one.keys()
        assert ("loss_penalty" in one) == ((one["step"] - 1) % 3 == 0)
        assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)


def test_a_loss_that_is_not_finite_is_refused_by_its_name(guide: Manifest, tmp_path: Path) -> None:
    def broken(models: object, batch: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, figures = tiny.discriminator_loss(models, batch)  # type: ignore[arg-type]
        return loss * math.nan, figures

    phases = [tiny.PHASES[0], Phase("discriminator", "discriminator", broken)]
    schedule = Schedule(tiny.STEPS, tiny.STEPS)
    learner = AdversarialLearner(tiny.setups(), phases, tiny.LOOP, schedule, Accelerator(cpu=True))
    tracker = Tracker(TrackConfig(wandb="disabled"), tmp_path, "gan", "tiny", {})
    with pytest.raises(UserError, match="loss_discriminator is nan at step 1"):
        fit(learner, tiny.loader(str(guide.folder), 0, 0), tiny.LOOP, schedule, tmp_path, tracker)
    tracker.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoopConfig(strategy="fsdp"), "train.strategy=fsdp trains one network"),
        (LoopConfig(strategy="zero2"), "train.strategy=zero1 to zero3 train one network"),
        (LoopConfig(precision="fp16"), "train.precision=fp16 trains one network"),
        (LoopConfig(compile=True), "train.compile=true trains one network"),
    ],
)
def test_what_two_networks_cannot_have_is_refused_before_ranks_are_joined(
    config: LoopConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=message):
        check_strategy(config, networks=2)
    check_strategy(LoopConfig(precision="bf16"), networks=2)


def test_the_learner_itself_refuses_what_it_cannot_train(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, accelerator = Schedule(1, 1), Accelerator(cpu=True)
    for config in (LoopConfig(precision="fp16"), LoopConfig(compile=True)):
        with pytest.raises(UserError, match="trains one network"):
            AdversarialLearner(tiny.setups(), tiny.PHASES, config, schedule, accelerator)
    typo = Phase("generator", "generatr", tiny.generator_loss)
    with pytest.raises(ValueError, match="phases of no player: generatr; there are generator, discriminator"):
        AdversarialLearner(tiny.setups(), [typo], tiny.LOOP, schedule, accelerator)
    with pytest.raises(ValueError, match="one of them has to move in every step"):
        AdversarialLearner(tiny.setups(), tiny.PHASES[2:], tiny.LOOP, schedule, accelerator)


def test_curves_of_figures_that_are_not_in_every_step_are_drawn(tmp_path: Path) -> None:
    rows = [{"step": s, "epoch": s / 10, "loss_a": 1 / s} | ({"loss_b": s} if s % 3 == 2 else {}) for s in range(1, 31)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_training_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl", [Panel("loss", ["loss*"])])
    assert (tmp_path / "curves.png").stat().st_size > 5000
