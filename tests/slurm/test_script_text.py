"""No text in words, names, folders or profiles makes a line of its own in the batch script."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.experiments.sweep_agent import trial_task
from shards.errors import UserError
from slurm.errors import SlurmError
from slurm.profile import Profile
from slurm.submit import Launch, sbatch_script

HOSTILE = (
    "a\n#SBATCH --nodes=99", "a\rb", "a\u2028touch x", "a\x85b", "\udcff", "'; touch x; '", '"$(id)"', "`id`", "%j",
)  # fmt: skip
TEXT = st.text(max_size=12) | st.sampled_from(HOSTILE)
NAME = TEXT.filter(lambda text: text not in ("", ".", "..") and "/" not in text and "\0" not in text)
PROFILE = Profile(account="x", env={"A": "x"}, sbatch={"comment": "x"}, setup=["true"])


def script_lines(profile: Profile, words: tuple[str, ...], name: str, runs: str) -> list[str]:
    launch = Launch(f"classify/{name}", ("classify", *words), Path("/", runs, "classify", name))
    return sbatch_script(profile, [launch]).splitlines()


def shape(line: str) -> str:
    """What a line does, without its value."""
    if line.startswith("# fgvc "):
        return "# fgvc"
    return line.partition("=")[0] if line.startswith(("#SBATCH ", "export ")) else line.partition(" ")[0]


EXPECTED = [shape(line) for line in script_lines(PROFILE, ("a=b",), "name", "runs")]


@settings(max_examples=300, deadline=None)
@given(word=TEXT, name=NAME, runs=NAME, value=TEXT, comment=TEXT, account=TEXT.filter(bool))
@example("a=1", "n", "r", "v", "c\n#SBATCH --x", "a")
@example("a\nrm -rf x", "n", "r", "v", "c", "a")
@example("a", "n", "r", "v\nrm -rf x", "c", "a")
@example("a", "n\nrm", "r", "v", "c", "a")
@example("a", "n", "r\u2029rm", "v", "c", "a")
@example("a", "it's", 'r "$(id)" #', "'`id`\\", "c # d", "a'b")
def test_text_stays_in_its_line(word: str, name: str, runs: str, value: str, comment: str, account: str) -> None:
    profile = replace(PROFILE, env={"A": value}, sbatch={"comment": f"c{comment}"}, account=account)
    refusal, lines = "", []
    try:
        lines = script_lines(profile, (word,), name, runs)
    except SlurmError as error:
        refusal = str(error)
    if refusal:
        assert len(refusal.splitlines()) == 1
        assert refusal.encode()
        return
    assert [shape(line) for line in lines] == EXPECTED
    # What the shell and sbatch read is the text itself.
    assert shlex.split(next(line for line in lines if line.startswith("export A="))) == ["export", f"A={value}"]
    for option, text in (("account", account), ("comment", f"c{comment}"), ("job-name", f"classify/{name}")):
        start = f"#SBATCH --{option}="
        assert shlex.split(next(line for line in lines if line.startswith(start))[len(start) :]) == [text]
    assert shlex.split(next(line for line in lines if line.startswith("# fgvc "))[2:]) == ["fgvc", "classify", word]


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "gpu_type", "memory", "time", "scratch",
                                   "cache", "python"])  # fmt: skip
@pytest.mark.parametrize("bad", ["\n", "\r", "\x1b", "\u2028", "\x85", "\t", "\udcff"])
def test_no_setting_of_a_profile_takes_control_characters(field: str, bad: str) -> None:
    with pytest.raises(SlurmError) as caught:
        script_lines(replace(PROFILE, **{field: f"a{bad}b"}), (), "name", "runs")  # type: ignore[arg-type]
    assert str(caught.value) == f"{field}: the text {f'a{bad}b'!a} contains {bad!a}, a control character; remove it"


def test_setup_is_one_shell_line_per_entry() -> None:
    assert "cut -d '\t' f" in script_lines(replace(PROFILE, setup=["cut -d '\t' f"]), (), "name", "runs")
    with pytest.raises(SlurmError, match=r"setup \(one shell line per entry\)"):
        script_lines(replace(PROFILE, setup=["a\nb"]), (), "name", "runs")


def test_characters_that_slurm_replaces_in_paths_are_refused() -> None:
    for name in ("50%j", "100%", "a\\b"):
        with pytest.raises(SlurmError, match=r"choose a name= and runs_dir= without it"):
            script_lines(PROFILE, (), name, "runs")
        with pytest.raises(SlurmError, match=r"choose a name= and runs_dir= without it"):
            script_lines(PROFILE, (), "name", name)


def test_what_a_sweep_server_sends_is_checked_too(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 1\n")
    launch = trial_task("classify", [str(config)], {"model.name": "a\n#SBATCH --nodes=99"}, tmp_path, "id")
    with pytest.raises(SlurmError, match="a control character; remove it"):
        sbatch_script(PROFILE, [launch])
    for run_id in ("id\ntouch x", "..", "../up", "a/b", "a\\b", "", ".hidden", "a b", "-rf", "a" * 129):
        with pytest.raises(UserError, match="not a folder's name"):
            trial_task("classify", [str(config)], {}, tmp_path, run_id)
    assert trial_task("classify", [str(config)], {}, tmp_path, "8x.2_a-B").folder == tmp_path / "classify/8x.2_a-B"
