"""What a sweep found: table.md, sweep.png, result.json, and the commands that follow."""

import json
import shlex

from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.study.search import Trial
from fgvc.study.search_report import plot, table
from jobs.config import trains
from jobs.experiments.compare_rows import OWN
from jobs.experiments.sweep_file import text_of
from jobs.experiments.trials import PlannedSweep
from jobs.registry import command_module
from shards.files import write_bytes


def write_results(plan: PlannedSweep, folder: RunFolder, trials: list[Trial], seconds: float) -> str:
    """Write table.md, sweep.png and, unless trials failed, result.json; the text for the terminal."""
    metric, names = plan.sweep.metric, {trial.number: plan.command(trial).name for trial in trials}
    text = table(trials, names, metric.name, metric.sign)
    done = {trial.number: (trial, metric.sign * trial.score) for trial in trials if trial.score is not None}
    write_bytes(folder.path / "table.md", f"# {plan.folder.name}\n\n{text}\n".encode())
    if not done:
        return text
    best, value = max(done.values(), key=lambda pair: metric.sign * pair[1])
    command = plan.command(best)
    plot(folder.path / "sweep.png", plan.sweep.parameters, trials, metric.name, metric.sign,
         f"{plan.folder.name}: {len(done)} trials, best {metric.name} {value:.4f}")  # fmt: skip
    result = json.loads((command.folder / "result.json").read_text())
    settings = shlex.join(f"{key}={text_of(value)}" for key, value in best.values.items())
    if len(done) == len(trials):
        record = {
            "best": {"trial": command.name, "metric": metric.name, "value": value,
                     "settings": best.values, "folder": str(command.folder)},
            "trials": {names[number]: figure for number, (_, figure) in done.items()}, "method": plan.sweep.method,
            "val": result["val"],
        }  # fmt: skip
        finish(folder, record, result["inputs"], seconds)
    images = f" of {result['val']['count']} held-out images" if "count" in result["val"] else ""
    lowered = ", and from a checkpoint on at a lower optim.lr than that: it broke" if result.get("rewinds") else ""
    return (
        f"{text}\n\nbest: {command.name}, {metric.name} {value:.4f}{images}, with {settings}{lowered}\n"
        f"{_what_next(plan, best, len(done))}\n"
        f"look at {folder.path}: table.md, sweep.png, result.json, trials.jsonl, {plan.sweep.job}/"
    )


def _what_next(plan: PlannedSweep, best: Trial, count: int) -> str:
    """The commands that follow: the trial as it was on every fold, then trained on all of train and tested once."""
    if not trains(command_module(plan.sweep.job).Config):
        return "Nothing was trained: the best trial is the easiest (a smaller epsilon, fewer steps); read the table."
    settings = dict(word.split("=", 1) for word in plan.sweep.words)  # a searched setting replaces the command's own
    settings |= {key: text_of(value) for key, value in best.values.items()}
    words = [f"{key}={value}" for key, value in settings.items() if key not in {*OWN, "track.group"}]
    config, job = str(plan.sweep.config), plan.sweep.job
    compare = [config, "folds=5", *([] if job == "classify" else [f"job={job}"]), *words]
    return (
        f"The best of {count} on one fold looks better than it is: measure it on all folds before relying on it, then "
        "train on all of train and test once:\n"
        f"next: fgvc compare {shlex.join(compare)}\n"
        f"then: fgvc {job} {shlex.join([config, f'name={plan.folder.name}-best', *words])}"
    )
