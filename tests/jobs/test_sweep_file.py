"""Sweep files: W&B's format is read, and every mistake is one line before anything starts."""

import json
from pathlib import Path

import pytest
import yaml
from places import ROOT

from fgvc.runtime.run_folder import RunFolder
from fgvc.study.search import Trial
from jobs.cli import main
from jobs.experiments.sweep_agent import trial_task
from jobs.experiments.sweep_file import agent_words, read_sweep, split_command, trial_words
from jobs.experiments.sweep_results import write_results
from jobs.experiments.trials import PlannedSweep
from shards.errors import UserError

COMMAND = ["fgvc", "classify", "a.yaml", "data.folds=3", "evaluate_test=false", "${args_no_hyphens}"]
GOOD = {
    "program": "fgvc", "command": COMMAND, "method": "random", "run_cap": 4,
    "metric": {"name": "val_top1", "goal": "maximize"},
    "parameters": {"optim.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(yaml.safe_dump({"data": {"shards": "here"}, "model": {"name": "test_resnet"}}))


def write(values: dict) -> Path:
    Path("s.yaml").write_text(yaml.safe_dump(values))
    return Path("s.yaml")


def test_every_kind_of_parameter_is_read_with_wandbs_defaults():
    sweep = read_sweep(
        write(
            GOOD | {
                "project": "birds",
                "parameters": {
                    "optim": {"parameters": {"lr": {"min": 0.001, "max": 0.1}, "method": {"values": ["sgd", "adamw"]}}},
                    "train.epochs": {"min": 2, "max": 5},
                    "train.batch": {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8},
                    "seed": {"value": 3},
                    "train.mixup": {"values": [0, 0.2], "probabilities": [0.75, 0.25]},
                    "optim.weight_decay": {"distribution": "log_normal", "mu": -7},
                },
            }
        ),
        ["image.size=32"],
    )  # fmt: skip
    assert [(one.key, one.distribution) for one in sweep.parameters] == [
        ("optim.lr", "uniform"), ("optim.method", "categorical"), ("optim.weight_decay", "log_normal"),
        ("seed", "constant"), ("train.batch", "q_log_uniform_values"), ("train.epochs", "int_uniform"),
        ("train.mixup", "categorical"),
    ]  # fmt: skip
    assert sweep.parameters[2].options == {"mu": -7, "sigma": 1.0}
    assert sweep.words == ("track.project=birds", "data.folds=3", "evaluate_test=false", "image.size=32")
    words = trial_words(sweep, {"optim.lr": 1e-05, "optim.method": "sgd"}, {"name": "t"})
    assert words[-3:] == ["optim.lr=1e-05", "optim.method=sgd", "name=t"]


def test_the_command_may_be_written_as_wandb_writes_it(monkeypatch):
    monkeypatch.setenv("CONFIG", "a.yaml")
    words = ["${env}", "${interpreter}", "${program}", "classify", "${envvar:CONFIG}", "x=1", "${args_no_hyphens}"]
    assert split_command(words, "/opt/venv/bin/fgvc", "s.yaml") == ("classify", ["a.yaml", "x=1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paramters": {}}, "s.yaml: unknown key 'paramters'; did you mean 'parameters'?"),
        ({"method": "baye"}, "method 'baye' is unknown; did you mean 'bayes'?"),
        ({"method": None}, "method is missing"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate is not supported"),
        ({"run_cap": 0}, "run_cap is missing: a random sweep has no end of its own"),
        ({"run_cap": "many"}, "run_cap='many': expected the number of trials"),
        ({"metric": "top1"}, "metric: {name: val_top1, goal: maximize} is expected"),
        ({"metric": {"name": "test_top1", "goal": "maximize"}}, "of the test split, which must not choose"),
        ({"metric": {"name": "test/top1", "goal": "maximize"}}, "of the test split"),
        ({"metric": {"name": "loss", "goal": "minimize"}}, "metric 'loss' is not of the held-out fold; use val_top1"),
        ({"metric": {"name": "val_top1"}}, "metric.goal is missing (W&B would minimize)"),
        ({"command": None}, "command is missing, a list of words: [fgvc, classify"),
        ({"command": ["python", "train.py", "${args}"]}, "command uses ${args}; fgvc takes settings as key=value"),
        ({"command": ["fgvc", "clasify", "a.yaml", "${args_no_hyphens}"]}, "fgvc clasify is no job; did you mean"),
        ({"command": [*COMMAND, "evaluate_test=true"]}, "'evaluate_test=true': a sweep never measures the test split"),
        ({"command": [*COMMAND, "name=x"]}, "'name=x': the sweep sets it itself"),
        ({"command": ["fgvc", "evaluate", "a.yaml", "${args_no_hyphens}"]}, "command: fgvc evaluate trains nothing"),
        ({"command": [*COMMAND, "optim.lrr=1"]}, "unknown key 'optim.lrr'; did you mean 'optim.lr"),
        ({"command": [word for word in COMMAND if "folds" not in word]}, "needs a held-out fold: add data.folds=5"),
        ({"command": [*COMMAND, "optim.lr=0.1"]}, "'optim.lr' is searched, and also set to 0.1; remove one"),
        ({"command": ["nice", "fgvc", "classify", "b.yaml", "${args_no_hyphens}"]}, "b.yaml: no such config"),
    ],
)  # fmt: skip
def test_slips_in_the_file_are_named_in_one_line(change, message):
    write({key: value for key, value in (GOOD | change).items() if value is not None})
    fails(["s.yaml"], message)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"optim.lrr": {"value": 1}}, "parameter 'optim.lrr' is no setting of classify; did you mean 'optim.lr'?"),
        ({"optim.lr": {"minimum": 1}}, "optim.lr: unknown key 'minimum'; did you mean 'min'?"),
        ({"optim.lr": {"min": 1}}, "optim.lr: expected value, values, or min and max, found min"),
        ({"optim.lr": {"min": 0.1, "max": 0.01}}, "min=0.1 is not below max=0.01"),
        ({"optim.lr": {"distribution": "uniform", "values": [1]}}, "distribution uniform needs min"),
        ({"optim.lr": {"values": [1], "max": 1}}, "max contradicts distribution categorical"),
        ({"optim.lr": {"distribution": "unifrom", "min": 0, "max": 1}}, "'unifrom'; did you mean 'uniform'?"),
        ({"optim.lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}, "needs a min above 0"),
        ({"optim.lr": {"distribution": "log_uniform", "min": 1.0e-4, "max": 0.1}}, "use log_uniform_values"),
        ({"optim.lr": {"min": "1e-4", "max": 0.1}}, "min='1e-4' is not a number; in YAML it needs a dot: 1.0e-4"),
        ({"optim.lr": {"values": [0.1, 0.2], "probabilities": [0.5, 0.6]}}, "probabilities add up to 1.1, not 1"),
        ({"optim.lr": {"min": -0.1, "max": 0.1}}, "optim.lr="),
        ({"optim.lr": {"distribution": "normal", "mu": 0.01, "sigma": 0.01}}, "optim.lr=-0.0"),
        ({"train.batch": {"min": 8.0, "max": 16.5}}, "train.batch="),
        ({"optim.method": {"values": ["sgd", "adam"]}}, "optim.method='adam'"),
        ({"evaluate_test": {"values": [True]}}, "'evaluate_test' is set by the sweep"),
        ({"data.fold": {"values": [0, 1]}}, "'data.fold' decides which images a trial is measured on"),
        ({"optim.lr": {"value": 1}, "optim": {"parameters": {"lr": {"value": 1}}}}, "'optim.lr' appears twice"),
        ({}, "parameters is missing"),
    ],
)  # fmt: skip
def test_slips_in_parameters_are_named_in_one_line(parameters, message):
    write(GOOD | {"parameters": parameters})
    fails(["s.yaml"], message)


def test_a_grid_needs_an_end():
    write(GOOD | {"method": "grid"})
    fails(["s.yaml"], "optim.lr: a grid over log_uniform_values is endless")
    write(GOOD | {"method": "grid", "parameters": {"train.mixup": {"values": [0], "probabilities": [1]}}})
    fails(["s.yaml"], "probabilities are for method: random, this sweep is grid")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a sweep file; which?"),
        (["nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["s.yaml", "paralel=3"], "'paralel=3': unknown key 'paralel'; did you mean 'parallel'?"),
        (["s.yaml", "optim.lr=3"], "'optim.lr' is searched, and also set to 3"),
        (["s.yaml", "--on", "mars"], "--on mars: no such cluster"),
        (["s.yaml", "parallel=-1"], "parallel=-1"),
    ],
)
def test_slips_on_the_command_line_are_named_in_one_line(words, message):
    write(GOOD)
    fails(words, message)


def fails(words: list[str], message: str) -> None:
    from jobs.sweep import main as sweep

    with pytest.raises(UserError) as caught:
        sweep([*words, "--dry-run"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_the_exit_code_of_a_slip_is_2(capsys):
    write(GOOD | {"method": "guess"})
    assert main(["sweep", "s.yaml"]) == 2
    assert capsys.readouterr().err.startswith("fgvc sweep: s.yaml: method 'guess' is unknown")


def test_sweeps_of_this_repository_are_sound(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CUB_200_2011", "anywhere")
    for file in sorted(Path("configs/sweeps").glob("*.yaml")):
        assert main(["sweep", str(file), "name=not_run_before", "--dry-run"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in shown[:5]] == ["new"] * 5
        assert all("evaluate_test=false" in line or "split=held_out" in line for line in shown[:5])


@pytest.mark.parametrize(("more", "guard"), [([], "false"), (["train.guard=true"], "true")])
def test_no_guard_ends_a_trial_unless_the_command_asks_for_it(more, guard, tmp_path):
    write(GOOD | {"command": [*COMMAND[:-1], *more, COMMAND[-1]]})
    plan = PlannedSweep(read_sweep(Path("s.yaml"), []), tmp_path, 4, 0)
    words = plan.command(Trial(0, {}, {"optim.lr": 0.1})).words
    assert [word for word in words if word.startswith("train.guard=")] == [f"train.guard={guard}"]
    agents = trial_task("classify", ["a.yaml", *more], {"optim.lr": 0.1}, tmp_path, "id").words
    assert [word for word in agents if word.startswith("train.guard=")] == [f"train.guard={guard}"]


def test_a_best_trial_that_did_not_keep_its_rate_is_called_that(tmp_path):
    plan = PlannedSweep(read_sweep(write(GOOD), []), tmp_path / "s", 2, 0)
    trials = [Trial(number, {}, {"optim.lr": 0.1 * (number + 1)}, score=0.5 + number / 10) for number in range(2)]
    for trial in trials:
        folder = plan.command(trial).folder
        folder.mkdir(parents=True)
        result = {"val": {"top1": trial.score, "count": 4}, "inputs": {}, "rewinds": [{"step": 3}] * trial.number}
        (folder / "result.json").write_text(json.dumps(result))
    said = write_results(plan, RunFolder(tmp_path / "s", None), trials, 1.0)
    assert "optim.lr=0.2, and from a checkpoint on at a lower optim.lr than that: it broke" in said
    assert "it broke" not in write_results(plan, RunFolder(tmp_path / "s", None), trials[:1], 1.0)


def test_words_of_wandbs_agent_are_taken_as_they_come():
    from jobs.classify import Config

    words = ["a.yaml", "seed=1", "optim={'lr': 1e-05, 'method': 'adamw'}", "_wandb={'t': 1}", "model.kwargs={a: 1}"]
    assert agent_words(Config, words) == [
        "a.yaml",
        "seed=1",
        "optim.lr=1e-05",
        "optim.method=adamw",
        "model.kwargs={a: 1}",
    ]


def test_without_a_metric_it_is_the_jobs_headline(tmp_path: Path) -> None:
    """Top-1 of a classifier, the share of right top boxes of a detector, on the held-out fold."""
    for job, key in (("classify", "top1"), ("detect", "top_right")):
        config = f"configs/{job}/field_guide.yaml"
        command = ["fgvc", job, str(ROOT / config), "data.folds=5", "evaluate_test=false", "${args_no_hyphens}"]
        values = {
            "command": command,
            "method": "random",
            "run_cap": 2,
            "parameters": {"optim.lr": {"values": [0.1, 0.2]}},
        }
        file = tmp_path / f"{job}.yaml"
        file.write_text(yaml.safe_dump(values))
        metric = read_sweep(file, []).metric
        assert (metric.name, metric.key, metric.sign) == (f"val_{key}", key, 1.0)
