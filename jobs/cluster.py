"""`fgvc cluster up|down|status`: a real Slurm on this machine, with fake GPUs, to try jobs before using a cluster.

    fgvc cluster up                                        2 nodes of 4 CPUs and 2 fake GPUs
    fgvc classify CONFIG --on testbed                      a job on it; fgvc status and fgvc cancel find it as well
    export SLURM_CONF=...                                  the line that `up` printed, for sinfo, sbatch, squeue
    fgvc cluster status
    fgvc cluster down

It runs as root or as a normal user. The GPUs are fake: jobs see CUDA_VISIBLE_DEVICES but compute on the CPU.
"""

import argparse
import dataclasses
import difflib
import shlex
import time
from pathlib import Path

from jobs.words import Parser
from slurm.errors import SlurmError
from slurm.testbed import cluster as testbed
from slurm.testbed.current import current, remember

EXAMPLES = """examples:
  fgvc cluster up
  fgvc cluster up --nodes 4 --gpus 4 --accounting
  fgvc cluster up --partition h100:nodes=4,cpus=96,memory_mb=1000000     then: sbatch --test-only -p h100 ...
  fgvc cluster up --partition night:preemptible=yes,grace_s=0,max_time=1:00:00
  fgvc cluster up --folder /tmp/other                                    a second cluster next to the first
"""
PARTITION_HELP = """another partition: NAME alone uses the shared nodes, nodes=N gives it N nodes of its own
(of any size, whatever the machine has). Keys: """
BOOLEANS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def main(argv: list[str]) -> int:
    """Run `fgvc cluster` with the words after it; the exit code.

    `status` gives 1 when no cluster runs. Raises SlurmError for a user's mistake.
    """
    options = read(argv)
    if options.command == "up":
        return _up(options.folder or testbed.default_folder(), options)
    running = None if options.folder else current()
    folder = options.folder or (running.folder if running else testbed.default_folder())
    return _down(folder) if options.command == "down" else _status(folder)


def read(argv: list[str]) -> argparse.Namespace:
    """The words, with partitions and settings taken apart; nothing is started. Raises SlurmError as `main` does."""
    options = _parser().parse_args(argv)
    if options.command == "up":
        options.partitions = [parse_partition(word) for word in options.partition]
        options.settings = dict(_setting(word) for word in options.settings)
    return options


def _parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = Parser("fgvc cluster", description=__doc__, epilog=EXAMPLES, formatter_class=kind)
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|down|status")
    up = commands.add_parser("up", help="start a cluster", description="Start a cluster.", epilog=EXAMPLES,
                             formatter_class=kind)  # fmt: skip
    down = commands.add_parser("down", help="stop it and everything that runs on it; logs stay in its folder")
    status = commands.add_parser("status", help="show what of it runs (exit code 1: nothing)")
    for command in (up, down, status):
        command.add_argument("--folder", type=_folder, help=f"folder for all its state ({testbed.default_folder()}; "
                             "down and status: of the cluster started last)")  # fmt: skip
    up.add_argument("--nodes", type=int, default=2, help="shared nodes, named n1, n2, ... (%(default)s)")
    up.add_argument("--cpus", type=int, default=4, help="CPUs of each, whatever the machine has (%(default)s)")
    up.add_argument("--gpus", type=int, default=2, help="fake GPUs of each (%(default)s)")
    up.add_argument("--memory-mb", type=int, default=8192, help="memory of each (%(default)s)")
    up.add_argument(
        "--accounting", action="store_true", help="with sacct, accounts and QOS (MariaDB, slurmdbd); slower"
    )
    keys = ", ".join(field.name for field in _partition_fields())
    up.add_argument("--partition", action="append", default=[], metavar="NAME[:KEY=VALUE,...]",
                    help=PARTITION_HELP + keys)  # fmt: skip
    up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                    help="a line of slurm.conf, such as MaxArraySize=100")  # fmt: skip
    return parser


def _folder(text: str) -> Path:
    if not text:  # an unset variable of the shell would mean the current folder
        raise argparse.ArgumentTypeError("expected a folder, this is empty")
    return Path(text)


def _up(folder: Path, options: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = testbed.up(
        folder,
        nodes=options.nodes,
        cpus_per_node=options.cpus,
        gpus_per_node=options.gpus,
        memory_mb_per_node=options.memory_mb,
        accounting=options.accounting,
        partitions=options.partitions,
        settings=options.settings,
    )
    remember(cluster.folder)
    names = ", ".join(partition.name for partition in cluster.partitions)
    where = f" --folder {shlex.quote(str(options.folder))}" if options.folder else ""
    took_s = time.monotonic() - started
    print(f"A Slurm cluster is up after {took_s:.1f} s: {len(cluster.nodes)} nodes, partitions {names}")
    print(f"Its state and logs: {cluster.folder}")
    print(
        "\nfgvc finds it by itself: fgvc JOB CONFIG --on testbed, fgvc status, fgvc cancel. For Slurm's own commands:\n"
    )
    _print_exports(cluster)
    print("    sinfo; srun -N2 hostname\n" if options.nodes > 1 else "    sinfo; srun hostname\n")
    print(f"To stop it:  fgvc cluster down{where}")
    return 0


def _down(folder: Path) -> int:
    testbed.down(folder)
    print(f"The cluster in {folder} is down. Its logs are in {folder / 'logs'}")
    return 0


def _status(folder: Path) -> int:
    cluster, found = testbed.load(folder), testbed.status(folder)
    if cluster is None or not found.running:
        print(f"No cluster runs in {folder}; `fgvc cluster up` starts one")
        return 1
    print(f"Cluster in {found.folder}")
    _print_exports(cluster)
    for name, pid in found.daemons.items():
        print(f"  {name:10} pid {pid:<8} {found.nodes.get(name, '')}".rstrip())
    for name in found.nodes.keys() - found.daemons.keys():
        print(f"  {name:10} not running  {found.nodes[name]}")
    print("  slurmctld is not responding" if found.jobs is None else f"  {found.jobs} jobs in the queue")
    return 0


def _print_exports(cluster: testbed.Testbed) -> None:
    for key, value in cluster.env.items():
        print(f"    export {key}={shlex.quote(value)}")


def parse_partition(word: str) -> testbed.Partition:
    """A partition from `NAME` or `NAME:key=value,...`, whose keys are the fields of Partition. Raises SlurmError."""
    name, _, rest = word.partition(":")
    kinds = {field.name: field.type for field in _partition_fields()}
    values: dict[str, object] = {}
    for pair in filter(None, rest.split(",")):
        key, value = _setting(pair, f"--partition {word}: ")
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
            raise SlurmError(f"--partition {word}: unknown key {key!r}; {hint}")
        values[key] = _typed(kinds[key], value, f"--partition {word}: {key}={value}")
    return testbed.Partition(name, **values)  # type: ignore[arg-type]


def _partition_fields() -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(testbed.Partition) if field.name != "name"]


def _typed(kind: object, value: str, where: str) -> object:
    if kind is bool and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    if kind is int and value.isdigit():
        return int(value)
    if kind is str:
        return value
    raise SlurmError(f"{where}: expected {'yes or no' if kind is bool else 'a whole number'}")


def _setting(word: str, where: str = "") -> tuple[str, str]:
    key, sign, value = word.partition("=")
    if not (key and sign and value):
        raise SlurmError(f"{where}{word!r} is not of the form KEY=VALUE")
    return key, value
