"""Dependent jobs on the test cluster: a diamond with a failing branch, resubmission, killed submissions, many tasks."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from slurm_helpers import enter, skip_without_cluster

from slurm.errors import SlurmError
from slurm.graph import Stage, check_graph, graph_states, submit_graph, wait_for_graph
from slurm.profile import Profile
from slurm.queue import queue, read_record
from slurm.submit import Launch
from slurm.testbed.cluster import Testbed, client, down, up

PROFILE = Profile(cpus_per_task=1, time="5")
MANIFEST = "shards/manifest.json"


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs, arrays of at most 30 tasks (MaxArraySize)."""
    skip_without_cluster()
    cluster = up(tmp_path_factory.mktemp("g"), settings={"MaxArraySize": "30"})
    yield cluster
    down(cluster.folder)


@pytest.fixture(autouse=True)
def _here(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(testbed, tmp_path, monkeypatch)


def build(folder: Path, *words: str, name: str = "") -> Launch:
    """A small real launch: draw two birds. It is done when the manifest exists."""
    small = ("species=2", "train_per_class=1", "test_per_class=1", "size=32", *words)
    return Launch(name or folder.name, ("shards", "build", "field_guide", "-", str(folder / "shards"), *small), folder)


def diamond(runs: Path, *for_left: str) -> list[Stage]:
    def stage(name: str, *after: str, words: tuple[str, ...] = ()) -> Stage:
        return Stage(name, (build(runs / name, *words),), after, done=MANIFEST)

    return [stage("top"), stage("left", "top", words=for_left), stage("right", "top"), stage("bottom", "left", "right")]


def wait(stages: list[Stage], seconds: float = 90) -> list[str]:
    """The lines that `wait_for_graph` reports until nothing of the graph is left in the queue."""
    lines: list[str] = []
    deadline = time.monotonic() + seconds

    def pause() -> None:
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)

    wait_for_graph(stages, lines.append, pause)
    return lines


def test_diamond_with_a_failing_branch_then_only_that_branch(tmp_path: Path) -> None:
    broken = diamond(tmp_path, "spieces=3")
    submitted = submit_graph(PROFILE, broken)
    assert [len(submitted[name]) for name in ("top", "left", "right", "bottom")] == [1, 1, 1, 1]
    assert submit_graph(PROFILE, broken) == {"top": [], "left": [], "right": [], "bottom": []}, "all are in the queue"
    lines = wait(broken)
    assert [str(state) for state in graph_states(broken)] == [
        "top: done", "left: failed (left)", "right: done", "bottom: cancelled, because left failed",
    ]  # fmt: skip
    assert "bottom: cancelled, because left failed" in lines
    assert "'spieces'" in submitted["left"][0].log.read_text()
    assert not (tmp_path / "bottom" / MANIFEST).exists()
    # The child never started.
    assert not submitted["bottom"][0].log.exists()

    written = {name: (tmp_path / name / MANIFEST).stat().st_mtime_ns for name in ("top", "right")}
    again = submit_graph(PROFILE, diamond(tmp_path))
    assert {name for name, jobs in again.items() if jobs} == {"left", "bottom"}
    wait(diamond(tmp_path))
    assert [state.state for state in graph_states(diamond(tmp_path))] == ["done"] * 4
    assert {name: (tmp_path / name / MANIFEST).stat().st_mtime_ns for name in ("top", "right")} == written
    assert (tmp_path / "left" / MANIFEST).stat().st_mtime_ns < (tmp_path / "bottom" / MANIFEST).stat().st_mtime_ns


def test_jobs_of_a_killed_submission_are_replaced(tmp_path: Path, testbed: Testbed) -> None:
    for node in testbed.nodes:  # hold all jobs
        client(testbed, "scontrol", "update", f"nodename={node.name}", "state=drain", "reason=test")
    try:
        stages = [Stage("many", tuple(build(tmp_path / f"task{i}") for i in range(3)), done=MANIFEST)]
        # As if killed after sbatch, before the second and third run folder recorded their job.
        first = [entry.job for entry in submit_graph(PROFILE, stages)["many"]]
        for i in (1, 2):
            (tmp_path / f"task{i}/slurm.json").unlink()
        second = submit_graph(PROFILE, stages)["many"]
        assert [entry.launch.folder.name for entry in second] == ["task1", "task2"]
        live = {number for number, job in queue().items() if job.live}
        assert live & {*first, *(entry.job for entry in second)} == {first[0], *(entry.job for entry in second)}
        client(testbed, "scancel", "--me")
    finally:
        for node in testbed.nodes:
            client(testbed, "scontrol", "update", f"nodename={node.name}", "state=resume")


def test_a_child_whose_parent_just_failed_is_resubmitted(tmp_path: Path, testbed: Testbed) -> None:
    parent = Stage("parent", (build(tmp_path / "parent", "spieces=3"),), done=MANIFEST)
    child = Stage("child", (build(tmp_path / "child"),), ("parent",), done=MANIFEST)
    submit_graph(PROFILE, [parent, child])
    deadline = time.monotonic() + 60
    while graph_states([parent])[0].state != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # At this moment Slurm may still show the child as pending.
    fixed = [Stage("parent", (build(tmp_path / "parent"),), done=MANIFEST), child]
    again = submit_graph(PROFILE, fixed)
    assert [len(again["parent"]), len(again["child"])] == [1, 1]
    assert {state.state for state in graph_states(fixed)} <= {"waiting", "running"}
    client(testbed, "scancel", "--me")


def test_comparison_as_an_array_then_only_its_failed_run(guide, fgvc, tmp_path: Path, testbed: Testbed) -> None:
    tiny = {
        "data": {"shards": str(guide.folder), "workers": 0}, "image": {"size": 32}, "track": {"wandb": "disabled"},
        "model": {"name": "test_resnet", "weights": "none"}, "train": {"batch": 8, "epochs": 1},
    }  # fmt: skip
    broken = tiny | {"model": {"name": "test_resnet", "weights": "missing.safetensors"}}
    for name, values in (("good", tiny), ("bad", broken)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    words = ("compare", "good.yaml", "bad.yaml", "folds=2", "use_folds=1", "name=c", "--on", "testbed")
    script, _ = fgvc(*words, "--dry-run", **testbed.env).communicate(timeout=60)
    assert "#SBATCH --array=0-1%2" in script
    assert not (tmp_path / "runs").exists()
    process = fgvc(*words, "--follow", **testbed.env)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "c: failed, 1 of 2 done (bad-s0-f0)" in output
    assert "run bad-s0-f0 failed: fgvc classify: model.weights=missing.safetensors" in errors
    assert (tmp_path / "runs/compare/c/table.md").is_file()
    before = read_record(tmp_path / "runs/compare/c/classify/good-s0-f0")
    nodes = f"nodename={','.join(node.name for node in testbed.nodes)}"
    client(testbed, "scontrol", "update", nodes, "state=drain", "reason=test")  # the job stays in the queue
    output, _ = fgvc(*words, **testbed.env).communicate(timeout=60)
    assert "compare c: 1 of 2 runs submitted" in output
    assert read_record(tmp_path / "runs/compare/c/classify/good-s0-f0") == before
    process = fgvc(*words[:-2], **testbed.env)
    assert "1 runs are in the queue, such as job" in process.communicate(timeout=60)[1]
    client(testbed, "scancel", "--me")
    client(testbed, "scontrol", "update", nodes, "state=resume")


def test_mistakes_in_a_graph_are_named(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    with pytest.raises(SlurmError, match="'late' comes after 'early', but no stage before it has that name"):
        check_graph([Stage("late", (one,), ("early",)), Stage("early", (two,))])
    with pytest.raises(SlurmError, match="two stages are called 'same'"):
        check_graph([Stage("same", (one,)), Stage("same", (two,))])
    with pytest.raises(SlurmError, match="two launches of this graph would write to this folder"):
        check_graph([Stage("a", (one,)), Stage("b", (one,))])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [35, pytest.param(95, marks=pytest.mark.slow)])
def test_many_small_launches_as_throttled_arrays_and_only_failures_again(
    count: int, tmp_path: Path, testbed: Testbed
) -> None:
    # The smallest real commands: `fgvc --help` succeeds, `fgvc hlep` fails. The batch script marks success.
    done = """trap '[ $? -eq 0 ] && touch "$fgvc_run/result.json"' EXIT"""
    profile = Profile(cpus_per_task=1, time="5", setup=[done])
    bad = {7, count // 2, count - 1}

    def stages(fixed: bool) -> list[Stage]:
        words = [("--help",) if fixed or i not in bad else ("hlep",) for i in range(count)]
        launches = tuple(Launch("many", word, tmp_path / f"t{i:03}") for i, word in enumerate(words))
        return [
            Stage("many", launches, throttle=2),
            Stage("after", (Launch("after", ("--help",), tmp_path / "after"),), ("many",)),
        ]

    began = time.monotonic()
    submitted = submit_graph(profile, stages(False))
    in_queue = time.monotonic() - began
    arrays = {one.job.split("_")[0] for one in submitted["many"]}
    assert len(arrays) == -(-count // 30), "an array takes 30 tasks: indices below MaxArraySize=30"
    most, deadline = 0, time.monotonic() + 1500
    while (state := graph_states(stages(False))[0]).live:
        assert time.monotonic() < deadline, state
        running = [job.id.split("_")[0] for job in queue().values() if job.state == "RUNNING"]
        most = max([most, *(running.count(array) for array in arrays)])
        time.sleep(0.3)
    print(f"\n{count} tasks: submitted in {in_queue:.1f} s, ended after {time.monotonic() - began:.0f} s")
    assert most == 2, "the throttle, per array"
    wait(stages(False))
    many, after = graph_states(stages(False))
    names = ", ".join(f"t{i:03}" for i in sorted(bad))
    assert str(many) == f"many: failed, {count - 3} of {count} done ({names})"
    assert str(after) == "after: cancelled, because many failed"
    again = submit_graph(profile, stages(True))
    assert [entry.launch.folder.name for entry in again["many"]] == [f"t{i:03}" for i in sorted(bad)]
    wait(stages(True))
    assert [state.state for state in graph_states(stages(True))] == ["done", "done"]
    jobs = [(read_record(tmp_path / f"t{i:03}") or {})["job"] for i in range(count)]
    assert len(set(jobs)) == count
