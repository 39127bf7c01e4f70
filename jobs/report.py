"""fgvc report: one HTML page of any runs, made from their folders alone; nothing is loaded when it is opened.

    fgvc report classify/photos explain/photos-test attack/photos-test      runs under runs/
    fgvc report runs/classify/photos runs/compare/origin_cub50              the same by their folders
    fgvc report photos                                                      every job's run of this name
    fgvc report runs                                                        every run in a folder of runs
    fgvc report pipeline/NAME                                               every step of a pipeline
    fgvc report RUN... name=june title="What June gave"                     its folder, and the words at its top
    fgvc report RUN... runs_dir=/scratch/runs

The page is <runs_dir>/report/<name>/report.html, at most 10 MB: the figures that matter, tables, curves and pictures by
step, the robustness card, comparisons, costs, configs, caveats. Every figure leads to its place in the run's
result.json and to the command that gave it. A run that is unfinished or damaged is named and shown as far as it goes.
"""

import logging
import sys
from pathlib import Path

from jobs.hints import next_lines
from shards.errors import UserError

SETTINGS = {"runs_dir": "runs", "name": "", "title": ""}


def main(words: list[str]) -> int:
    """`fgvc report WORDS`. Raises UserError where a word names no run."""
    if any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    settings, named = read(words)
    runs_dir = Path(settings["runs_dir"]).expanduser()
    from fgvc.reporting.page import cleaned, write_page  # loads matplotlib
    from fgvc.reporting.runs import read_runs

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    runs = read_runs([folder for word in named for folder in _folders(word, runs_dir)])
    name = settings["name"] or "-".join(dict.fromkeys(run.name for run in runs))[:80]
    if "/" in name or name.startswith("."):
        raise UserError(f"name={name}: a report's name is one folder name; set name=...")
    path = runs_dir / "report" / name / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        report = write_page(path, settings["title"] or name, runs)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    for run in runs:
        if run.state != "done" or run.omitted:
            what = "; ".join([*run.problems, *run.omitted]) or "no result yet"
            print(cleaned(f"fgvc report: {run.key}: {run.state}: {what}"), file=sys.stderr)
    if report.left_out:
        keys = ", ".join(report.left_out)
        print(cleaned(f"fgvc report: too large; left out of result.json what no figure shows: {keys}"), file=sys.stderr)
    print(f"{len(runs)} run{'s' * (len(runs) > 1)}, {report.bytes / 1e6:.1f} MB; look at {path}")
    print(next_lines("report"))
    return 0


def read(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings and the runs that words name; nothing is opened. Raises UserError as `main` does."""
    settings, named = dict(SETTINGS), []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key in SETTINGS:
            settings[key] = value
        elif sign and not Path(word).exists():
            raise UserError(f"'{word}' is not a setting of report; there are {', '.join(SETTINGS)} (see --help)")
        else:
            named.append(word)
    if not named:
        raise UserError("which runs? fgvc report RUN..., such as classify/photos, or a folder of runs")
    return settings, named


def _folders(word: str, runs_dir: Path) -> list[Path]:
    """The run folders that a word names: a folder, JOB/NAME, NAME, or all in a folder of runs."""
    from fgvc.reporting.runs import runs_of

    places = [folder for folder in (Path(word), runs_dir / word) if folder.is_dir()][:1]
    if not places and runs_dir.is_dir() and "/" not in word:
        places = [job / word for job in sorted(runs_dir.iterdir()) if (job / word).is_dir()]
    found = [run for place in places for run in runs_of(place)]
    if not found:
        raise UserError(f"{word}: no run there; fgvc status lists the runs under {runs_dir}")
    return found
