"""What the runs cost: time summed over resumes, speed, GPU-hours."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Cell, Row, RunLink, Section, cell, line, table
from fgvc.reporting.numbers import Derived, duration, is_number
from fgvc.reporting.runs import Run

HEADINGS = (
    "run",
    ("time", "wall time, summed over resumes"),
    ("starts", "how often it was begun or resumed"),
    ("train img/s", "median of the steps"),
    "eval img/s",
    ("GPU-hours", "ranks with a GPU times hours"),
    "parameters",
    "processor",
    "GPUs",
    "finished",
)


def gpu_hours(run: Run) -> float:
    """Hours of GPUs that ranks held; an older result says nothing of its ranks and counts as one. fgvc crop is one
    process, whose ranks are those of its detectors."""
    gpus, seconds = run.rows("hardware", "gpus"), run.get("seconds")
    ranks = [run.get("hardware", "ranks"), run.config.get("processes")]
    most = max([1, *filter(is_number, ranks)])
    return most * seconds / 3600 if gpus and is_number(seconds) else 0.0


def section(runs: Sequence[Run]) -> Section:
    """A row a finished run, and their sum."""
    timed = [run for run in runs if is_number(run.get("seconds"))]
    made = Section("costs", "Costs", runs=timed)
    if timed:
        total, hours = sum(run.get("seconds") for run in timed), sum(map(gpu_hours, timed))
        note = line(
            "All together ", Derived(duration(total), total, "the sum of the runs' times"), " and ",
            Derived(f"{hours:.2f}", hours, "the sum of the runs' GPU-hours"),
            " GPU-hours. Wall time counts every start of a run, those that were killed included.",
        )  # fmt: skip
        made.blocks.append(table("Time and machines", HEADINGS, [_row(run) for run in timed], timed, note))
    return made


def _row(run: Run) -> Row:
    rate, hours, gpus = run.curves.median("images_per_second"), gpu_hours(run), run.rows("hardware", "gpus")
    cores = run.number("count", "hardware", "cores")
    machine = line(str(run.get("hardware", "processor") or "?"), *((", ", cores, " cores") if cores else ()))
    return Row((
        cell(RunLink(run.key)), cell(run.number("duration", "seconds")), _derived(run, len(run.starts), "starts.json"),
        _derived(run, rate, "the median of images_per_second in metrics.jsonl", "{:,.1f}"),
        cell(run.number("distance", "evaluation_images_per_second")),
        _derived(run, hours, "ranks with a GPU times hours", "{:.2f}"), cell(run.number("millions", "parameters")),
        cell(*machine), cell(", ".join(sorted({str(gpu) for gpu in gpus})) or "none"),
        cell(str(run.get("finished") or "?")[:16].replace("T", " ")),
    ))  # fmt: skip


def _derived(run: Run, value: float | None, made_from: str, form: str = "{:.0f}") -> Cell:
    return cell(Derived(form.format(value), value, made_from, run.key) if value else None)
