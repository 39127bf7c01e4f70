"""fgvc pipeline: all steps from images to report, as one command: each stage is an ordinary run of its job.

    fgvc pipeline configs/pipeline/demo.yaml                          here, its stages in order, some side by side
    fgvc pipeline configs/pipeline/folder.yaml data.root=photos       your own pictures, a folder a class
    fgvc pipeline CONFIG classifier.train.epochs=30 name=longer       a setting of one stage
    fgvc pipeline CONFIG at_once=2                                    stages side by side, each on half of the cores
    fgvc pipeline CONFIG --dry-run                                    the graph, its time, every command
    fgvc pipeline CONFIG --on CLUSTER                                 dependent Slurm jobs; nothing has to stay alive
    fgvc pipeline CONFIG --on CLUSTER --follow                        the same, shown until all have ended
    fgvc pipeline CONFIG --until classifier | --from gan | --only attack
    fgvc status pipeline/NAME                                         every stage: its state, progress, figures

Runs lie in <runs_dir>/pipeline/<name>/<job>/<stage>/, what each stage printed in .../<name>/logs/, the report in
<runs_dir>/report/<name>/. What is done is not run again, so that the same command resumes after a kill, here or on a
cluster. A stage that fails ends the pipeline; the rest is kept. All runs log to one W&B group, the pipeline's name.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from fgvc.runtime.interrupt import Interrupted
from jobs.config import describe, to_dict
from jobs.experiments.pipeline_checks import drop_old_reports, refuse_others
from jobs.experiments.pipeline_file import Config, Planned, Stage, home_of, plan, read
from jobs.experiments.pipeline_run import choose, dry_run, locked, record_stages, run, submit, table
from jobs.hints import next_lines
from jobs.launch import profile_of, scratch_runs
from jobs.words import Parser
from slurm.profile import Profile


def main(words: list[str]) -> int:
    """`fgvc pipeline WORDS`; the exit code: 0 done, 1 a stage failed, 3 stopped. Raises UserError for a mistake."""
    arguments = _parse(words)
    if arguments.help:
        settings = f"settings (key: type = default):\n{describe(Config)}\n\nof a stage:\n{describe(Stage)}"
        print(f"{(__doc__ or '').strip()}\n\n{settings}")
        return 0
    profile, own = profile_of(arguments.on, arguments.words)
    config = read(own)
    if profile is not None and profile.scratch and config.runs_dir == Config.runs_dir:
        config.runs_dir = scratch_runs(profile)
    if arguments.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    planned = plan(config)
    refuse_others(planned)
    chosen = choose(planned, arguments.first, arguments.until, arguments.only)
    if arguments.dry_run:
        print(dry_run(config, chosen, profile))
        return 0
    try:
        return _run(config, planned, chosen, profile, arguments.follow)
    except Interrupted as stop:
        print(f"fgvc pipeline: {stop}", file=sys.stderr)
        return 3


def _run(
    config: Config, planned: Sequence[Planned], chosen: Sequence[Planned], profile: Profile | None, follow: bool
) -> int:  # fmt: skip
    with locked(config):
        record_stages(config, planned)
        drop_old_reports(planned)
    if profile is not None and not submit(config, chosen, profile, follow):
        return 0
    failed = run(config, planned, chosen, make=profile is None)
    print(table(chosen))
    for name, reason in failed.items():
        log = home_of(config) / "logs" / f"{name}.log"
        print(
            f"fgvc pipeline: stage {name} failed: {reason}; its log: {log}; fix it, and the same command resumes",
            file=sys.stderr,
        )
    if not failed:
        print(next_lines("pipeline", folder=home_of(config)))
    return 1 if failed else 0


def headline(result: dict[str, Any]) -> str:
    """As `fgvc status` shows it."""
    return f"{len(result['stages'])} stages"


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("fgvc pipeline", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--on", default="")
    parser.add_argument("--from", dest="first", default="")
    parser.add_argument("--until", default="")
    parser.add_argument("--only", action="append", default=[])
    for flag in ("--dry-run", "--print-config", "--follow"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_intermixed_args(words)
