"""fgvc sweep: hyperparameter search from a W&B sweep file: grid, random or Bayesian, without internet or account.

    fgvc sweep configs/sweeps/field_guide.yaml                    here, one trial after another
    fgvc sweep FILE parallel=4                                    here, four at once, each on a GPU of its own
    fgvc sweep FILE --on h100 nodes=2 parallel=8                  each trial a Slurm job of two nodes, at most 8 at once
    fgvc sweep FILE train.epochs=5 run_cap=20                     key=value for every trial; how many trials
    fgvc sweep FILE --dry-run                                     the first trials (with --on: the batch script too)
    fgvc sweep FILE --on debug                                    two trials of 20 steps on 64 images
    fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on h100            W&B's server chooses the trials (wandb sweep FILE)

The metric is measured on a held-out fold of train, never on the test split. Every trial is an ordinary run in
<runs_dir>/sweep/<name>/<job>/trial-000, 001, ...; what a killed driver had started resumes when the same command is
given again, nothing is run twice, failed trials are tried again. To read in <runs_dir>/sweep/<name>/: table.md,
sweep.png, result.json (the best trial), trials.jsonl, and what each trial printed in logs/ or slurm/.
"""

import json

from jobs.config import describe, load
from jobs.experiments.sweep_agent import main as agent
from jobs.experiments.sweep_config import Config, sorted_words
from jobs.experiments.sweep_file import plain, read_sweep
from jobs.experiments.sweep_run import run
from jobs.words import parse
from shards.errors import UserError


def main(words: list[str]) -> int:
    """`fgvc sweep WORDS`; the exit code: 0 done, 1 trials failed, 3 stopped.

    Raises UserError or SlurmError for a user's mistake.
    """
    if words[:1] == ["agent"]:
        return agent(words[1:])
    arguments = parse("sweep", words)
    if arguments.help:
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    given = sorted_words(arguments.words, arguments.on)
    sweep = read_sweep(given.file, given.trials)
    config = load(Config, None, given.own)
    if arguments.on == "debug":
        config.run_cap = min(config.run_cap or sweep.run_cap or 2, 2)
    config.name = config.name or given.file.stem + ("-debug" if arguments.on == "debug" else "")
    config.run_cap = config.run_cap or sweep.run_cap
    if not config.run_cap and sweep.method != "grid":
        raise UserError(
            f"{given.file}: run_cap is missing: a {sweep.method} sweep has no end of its own; set run_cap=20"
        )
    if arguments.print_config:
        print(json.dumps({"sweep": plain(sweep), "run": vars(config)}, indent=2))
        return 0
    return run(sweep, config, given, arguments.on, arguments.dry_run)


def headline(result: dict) -> str:
    """As `fgvc status` shows it: the best trial."""
    best = result["best"]
    return f"best {best['metric']} {best['value']:.4f} ({best['trial']})"
