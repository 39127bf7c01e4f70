"""Profiles as people write them: YAML's surprises, Slurm's notations, settings of the command against the file's."""

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.launch import read_profile
from shards.errors import UserError
from slurm.errors import SlurmError
from slurm.profile import Profile, _seconds, check
from slurm.submit import Launch, sbatch_script


def profile_of(folder: Path, text: str, *words: str) -> Profile:
    file = folder / "mine.yaml"
    file.write_text(text)
    return read_profile(str(file), list(words))


def directives(profile: Profile) -> list[str]:
    """The options in the batch script of a small command."""
    script = sbatch_script(profile, [Launch("classify/a", ("classify", "name=a"), Path("runs/classify/a"))])
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("time: 24:00:00", "time", "24:00:00"),  # YAML 1.1 reads base 60: 86400
        ("time: 8:30", "time", "8:30"),
        ("time: 1-12:00", "time", "1-12:00"),
        ("time: 90", "time", "90"),
        ("time: UNLIMITED", "time", "UNLIMITED"),
        ("account: 0123", "account", "0123"),  # octal: 83
        ("account: 0x1F", "account", "0x1F"),
        ("account: 1_000", "account", "1_000"),
        ("account: 1e3", "account", "1e3"),
        ("account: 2026-01-02", "account", "2026-01-02"),  # a date
        ("constraint: 2026-02-31", "constraint", "2026-02-31"),  # not even a date
        ("qos: yes", "qos", "yes"),  # a boolean
        ("partition: on", "partition", "on"),
        ("partition: null", "partition", "null"),
        ("memory: 0", "memory", "0"),
        ("nodes: 010", "nodes", 10),
        ("timeout_minutes: 1.5", "timeout_minutes", 1.5),
        ("env: {OMP_NUM_THREADS: 1, DEBUG: yes, ID: 007, T: 1:30, EMPTY: }", "env",
         {"OMP_NUM_THREADS": "1", "DEBUG": "yes", "ID": "007", "T": "1:30", "EMPTY": ""}),
        ("env: {on: 1}", "env", {"on": "1"}),
        ("setup: [module load cuda, 1, yes]", "setup", ["module load cuda", "1", "yes"]),
        ("partition:\nenv:\nsetup:\ntime:", "time", Profile().time),  # keys with everything below commented out
        ("sbatch: &common {nice: 1}\nenv: {<<: *common, B: 2}", "env", {"nice": "1", "B": "2"}),
    ],
)  # fmt: skip
def test_values_stay_as_written(text: str, key: str, value: object, tmp_path: Path) -> None:
    assert getattr(profile_of(tmp_path, text), key) == value


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("time=24:00:00", "time", "24:00:00"),
        ("account=0123", "account", "0123"),
        ("qos=yes", "qos", "yes"),
        ("nodes=2", "nodes", 2),
        ("env.OMP_NUM_THREADS=1", "env", {"KEPT": "k", "OMP_NUM_THREADS": "1"}),
        ("env.A.B=1", "env", None),
        ("env.ARGS=a=b: c", "env", {"KEPT": "k", "ARGS": "a=b: c"}),
        ("env={X: 010}", "env", {"KEPT": "k", "X": "010"}),
        ("sbatch.nice=100", "sbatch", {"nice": "100"}),
        ("setup=[a, 010]", "setup", ["a", "010"]),
        ("python=run: it", "python", "run: it"),
    ],
)
def test_words_stay_as_written(word: str, key: str, value: object, tmp_path: Path) -> None:
    if value is None:
        with pytest.raises(SlurmError, match=r"env: 'A\.B' is not a valid name"):
            profile_of(tmp_path, "env: {KEPT: k}", word)
    else:
        assert getattr(profile_of(tmp_path, "env: {KEPT: k}", word), key) == value


def test_gpus_with_their_type(tmp_path: Path) -> None:
    assert "gpus-per-node=a100:4" in directives(profile_of(tmp_path, "gpus_per_node: a100:4"))
    typed = "gpus_per_node: 8\ngpu_type: h100"
    assert "gpus-per-node=a100:2" in directives(profile_of(tmp_path, typed, "gpus_per_node=a100:2"))
    assert "gpus-per-node=h100:2" in directives(profile_of(tmp_path, typed, "gpus_per_node=2"))
    for words in (["gpus_per_node=a100:2", "gpu_type=v100"], ["gpus_per_node=:2"]):
        with pytest.raises(UserError, match="expected a number or TYPE:NUMBER"):
            profile_of(tmp_path, typed, *words)
    with pytest.raises(UserError, match="gpus_per_node='a100': Input should be a valid integer"):
        profile_of(tmp_path, typed, "gpus_per_node=a100")


def test_gpus_in_the_command_replace_the_files_tasks(tmp_path: Path) -> None:
    cpus = "tasks_per_node: 4"
    assert profile_of(tmp_path, cpus).ranks_per_node == 4
    assert profile_of(tmp_path, cpus, "gpus_per_node=2").ranks_per_node == 2
    assert profile_of(tmp_path, cpus, "gpus_per_node=0").ranks_per_node == 4
    assert read_profile("testbed", ["gpus_per_node=2", "nodes=2"]).ranks == 4
    assert profile_of(tmp_path, cpus, "gpus_per_node=2", "tasks_per_node=2").ranks_per_node == 2
    with pytest.raises(SlurmError, match="tasks_per_node=3 with gpus_per_node=2: one task runs per GPU"):
        profile_of(tmp_path, cpus, "gpus_per_node=2", "tasks_per_node=3")
    with pytest.raises(SlurmError, match="tasks_per_node=2 with gpus_per_node=4: one task runs per GPU"):
        profile_of(tmp_path, "gpus_per_node: 4", "tasks_per_node=2")


def test_options_of_sbatch(tmp_path: Path) -> None:
    for text in ("exclusive: true", 'exclusive: ""', "exclusive: yes", "exclusive: "):
        assert "exclusive" in directives(profile_of(tmp_path, f"sbatch: {{{text}}}"))
    assert not [line for line in directives(profile_of(tmp_path, "sbatch: {exclusive: no}")) if "exclusive" in line]
    profile = profile_of(tmp_path, "sbatch: {exclusive: user, nice: 0100, kill-on-invalid-dep: yes}")
    assert {"exclusive=user", "nice=0100", "kill-on-invalid-dep=yes"} <= set(directives(profile))
    for option, message in (
        ("mem: 1G", "sbatch.mem=1G: set memory= instead"),
        ("cpus-per-task: 2", "sbatch.cpus-per-task=2: set cpus_per_task= instead"),
        ("output: x", "sbatch.output=x: fgvc sets this option itself"),
        ('"nice\\n#SBATCH --x": 1', r"sbatch: the text 'nice\n#SBATCH --x' contains '\n', a control character"),
        ("--nice: 1", "sbatch: '--nice' is not an option of sbatch"),
    ):
        with pytest.raises(SlurmError) as caught:
            profile_of(tmp_path, f"sbatch: {{{option}}}")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_time_limits() -> None:
    for limit, seconds in (
        ("90", 5400), ("1:30", 90), ("8:00:00", 28800), ("1-0", 86400), ("1-12:00", 129600), ("2-00:00:01", 172801),
        ("0", 0), ("UNLIMITED", 0), ("infinite", 0),
    ):  # fmt: skip
        assert _seconds(limit) == seconds
        if not 0 < seconds <= 120:
            check(Profile(time=limit))
    with pytest.raises(SlurmError, match="time=2:00 is no longer than signal_seconds=120"):
        check(Profile(time="2:00"))
    for limit in ("8h", "", "1:2", "-1", "1-", "24:00:00\n", "8:00:00:00", "٣"):
        with pytest.raises(SlurmError, match=r"^time"):
            check(Profile(time=limit))


def test_mistakes_in_a_profile_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("list", b"- a\n"), ("binary", b"\xff\xfe\0"), ("broken", b"a: [b\n"), ("unknown", b"nodse: 2\n"),
        ("number", b"nodes: many\n"), ("nested", b"env: {A: {B: c}}\n"), ("scalar", b"env: 3\n"),
        ("tag", b"time: !!python/object:os.system x\n"), ("escape", b'account: "a\\nb"\n'), ("dup", b"? [a, b]\n: c\n"),
    ):  # fmt: skip
        (tmp_path / f"{name}.yaml").write_bytes(text)
        assert main(["classify", "name=a", "--on", f"{name}.yaml", "--dry-run"]) == 2, name
        printed = capsys.readouterr()
        assert printed.out == "", name
        assert printed.err.startswith("fgvc classify: "), name
        assert printed.err.count("\n") == 1, printed.err
    assert main(["classify", "name=a", "--on", "absent.yaml", "--dry-run"]) == 2
    assert "--on absent.yaml: no such profile" in capsys.readouterr().err
