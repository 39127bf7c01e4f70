"""fgvc compare: several configs x seeds x folds, with paired intervals. Touches no test split unless asked to.

    fgvc compare configs/compare/origin_cub50.yaml                   rows from a comparison file
    fgvc compare a.yaml b.yaml seeds=3 folds=5 use_folds=2           rows are these configs
    fgvc compare a.yaml b.yaml train.epochs=5 name=short             key=value for every run
    fgvc compare job=detect a.yaml b.yaml                            detectors, by their top box
    fgvc compare CONFIG... --dry-run                                 only list the runs
    fgvc compare CONFIG... --on debug                                20 steps on 64 images each
    fgvc compare CONFIG... --on h100 throttle=8                      every run a Slurm job, at most 8 at once
    fgvc compare CONFIG... --on h100 --follow                        the same, and the table once all have ended

Every row sees the same seeds and the same folds of the training split. Each (row, seed, fold) is one run of the job
(classify, or job=detect) in a process of its own, in <runs_dir>/compare/<name>/<job>/; what is done is skipped, so the
same command resumes after a kill, and more seeds or rows can be added. A run that fails is named, the rest continues,
but for the row of one that was refused before it began to train; the exit code is 1. With --on CLUSTER the missing runs
are submitted as an array; the same command again submits what failed, and without --on it writes the table of what is
there once no run is in the queue any more.
To read in <runs_dir>/compare/<name>/: table.md (also .csv, .tex), comparison.png, result.json, and what each run
printed in logs/.
"""

import json
import sys
from pathlib import Path

from fgvc.runtime.interrupt import Interrupted
from jobs.config import describe, to_dict
from jobs.debug import fresh_folder
from jobs.experiments.compare_rows import Config, check, list_runs, read
from jobs.experiments.compare_run import check_queue, dry_run, run, submit
from jobs.hints import next_lines
from jobs.launch import profile_of, scratch_runs
from jobs.words import parse


def main(words: list[str]) -> int:
    """`fgvc compare WORDS`; the exit code: 0 done, 1 runs failed, 3 stopped. Raises UserError for a user's mistake."""
    arguments = parse("compare", words, "--follow")
    if arguments.help:
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    profile, own = profile_of(arguments.on, arguments.words)
    config = read(own, debug=arguments.on == "debug")
    if profile is not None and profile.scratch and config.runs_dir == Config.runs_dir:
        config.runs_dir = scratch_runs(profile)
    runs = list_runs(config)
    check(config, runs)
    if arguments.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    if arguments.dry_run:
        dry_run(config, runs, profile)
        return 0
    if arguments.on == "debug":
        fresh_folder(Path(config.runs_dir) / "compare" / config.name)
    try:
        if profile is None:
            check_queue(runs)
        elif not submit(config, runs, profile, arguments.follow):
            return 0
        failed = run(config, runs, make=profile is None)
    except Interrupted as stop:
        print(f"fgvc compare: {stop}", file=sys.stderr)
        return 3
    for name, reason in failed.items():
        print(f"fgvc compare: run {name} failed: {reason}", file=sys.stderr)
    if not failed and arguments.on != "debug":
        print(next_lines("compare", folder=Path(config.runs_dir) / "compare" / config.name))
    return 1 if failed else 0


def headline(result: dict) -> str:
    """As `fgvc status` shows it: the best row."""
    key = result.get("headline", "top1")
    rows = [row for row in result["rows"] if row[key] is not None]
    best = max(rows, key=lambda row: row[key])
    return f"best of {len(rows)} rows: {best['label']} {best[key]:.2%}"
