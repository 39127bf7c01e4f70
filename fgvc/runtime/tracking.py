"""One tracker for every job: metrics.jsonl (the record) and Weights & Biases, on rank 0 only."""

import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fgvc.runtime import lineage
from fgvc.runtime.config import TrackConfig
from fgvc.runtime.run_folder import RunFolder
from shards.errors import UserError
from shards.files import full_disk_is_named, write_bytes, write_json

log = logging.getLogger(__name__)

LINEAGE_S = 60  # for W&B to take what a finished run read
HELD = "held.json"  # a step's values that wait for what is measured after it
MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")  # of WANDB_MODE, as W&B takes it


class Tracker:
    """Logs by global step. After a resume at step s the record is cut back to s and continued: one history."""

    def __init__(
        self,
        config: TrackConfig,
        folder: Path,
        job: str,
        name: str,
        settings: dict[str, Any],
        *,
        step: int = 0,
        main: bool = True,
    ) -> None:
        self.main, self._every, self._artifacts = main, config.every, config.artifacts
        self.held: dict[str, Any] | None = None  # the values of `hold` that a run resumes with
        self._run: Any = None
        if not main:
            return
        self._path, self._held = folder / "metrics.jsonl", folder / HELD
        self.held = self._take_up(step)
        cut_back(self._path, step - 1 if self.held else step)
        self._file = self._path.open("a")
        mode = wandb_mode(config)
        if mode != "disabled":
            self._run = _start_wandb(config, mode, folder, job, name, settings)

    def log(self, step: int, values: dict[str, Any], always: bool = True) -> None:
        """Record plain values (numbers, strings) after a step: `always`, or only every `track.every` steps."""
        if not self.main or not (always or step % self._every == 0):
            return
        with full_disk_is_named(self._path):
            self._file.write(json.dumps({"step": step} | values) + "\n")
            self._file.flush()
        if self._run is not None:
            self._send(lambda run: run.log(values, step=step))

    def hold(self, step: int, values: dict[str, Any]) -> None:
        """Keep the values of a step on the disk until `release`: what is missing in them is about to be measured, and
        a run that resumes after this step measures it again."""
        if self.main:
            write_json(self._held, {"step": step, "values": values})

    def release(self) -> None:
        """Held values have been logged, whole."""
        self.held = None
        if self.main and self._held.is_file():
            self.sync()
            self._held.unlink()

    def _take_up(self, step: int) -> dict[str, Any] | None:
        """Held values of this very step; those of another one, of a checkpoint that was lost, are dropped."""
        try:
            held: dict[str, Any] = json.loads(self._held.read_text())
        except (OSError, ValueError):
            return None
        if held["step"] == step:
            values: dict[str, Any] = held["values"]
            return values
        self._held.unlink()
        return None

    def sync(self) -> None:
        """Put the record on the disk; called before a checkpoint, so that no checkpoint is newer than it."""
        if self.main:
            with full_disk_is_named(self._path):
                os.fsync(self._file.fileno())

    def pictures(self, step: int, named: dict[str, Path]) -> None:
        """Show PNG files in W&B (they stay in the run folder in any case)."""
        if self._run is not None:
            import wandb

            self._send(lambda run: run.log({key: wandb.Image(str(path)) for key, path in named.items()}, step=step))

    def summary(self, values: dict[str, Any]) -> None:
        """The figures W&B shows for the run as a whole."""
        if self._run is not None:
            self._send(lambda run: run.summary.update(values))

    def lineage(self, folder: RunFolder, inputs: dict[str, str]) -> None:
        """Tell W&B what a finished run made and, online, what it was made from (offline W&B has no word for that)."""
        if self._run is None or self._artifacts == "off":
            return
        try:
            self._run.log_artifact(lineage.made(folder, self._run.name, inputs, self._artifacts == "model"))
            if not self._run.offline:
                self._declare(inputs)
        except Exception as error:  # W&B's client and server fail in many ways, and the run is done
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("W&B: no artifacts (%s); result.json has the record", reason)

    def _declare(self, inputs: dict[str, str]) -> None:
        """W&B's client waits for its server without an end; a finished run does not."""
        errors: list[Exception] = []

        def declare() -> None:
            try:
                lineage.declare(self._run, inputs)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=declare, daemon=True)
        thread.start()
        thread.join(LINEAGE_S)
        if thread.is_alive():
            raise TimeoutError(f"no answer in {LINEAGE_S} s")
        if errors:
            raise errors[0]

    def close(self, exit_code: int = 0) -> None:
        """Flush and end; call it whatever happened."""
        if not self.main:
            return
        self._file.close()
        if self._run is not None:
            self._send(lambda run: run.finish(exit_code=exit_code))

    def _send(self, call: Callable[[Any], object]) -> None:
        """Hand something to W&B. Its service is a process of its own, which scancel and Ctrl-C end before us."""
        try:
            call(self._run)
        except OSError as error:  # the run must still save its checkpoint
            log.warning("W&B stopped (%s): metrics.jsonl only", " ".join(str(error).split()))
            self._run = None
            import wandb

            with suppress(OSError, SystemExit):  # drops its exit handler, which would fail the same way
                wandb.teardown()


def cut_back(path: Path, step: int) -> None:
    """Drop the lines after `step` and a torn last line: what was done since the checkpoint will be done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            whole = line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError):
            whole = False
        if not whole:
            break
        kept.append(line)
    write_bytes(path, b"".join(kept))


def wandb_mode(config: TrackConfig) -> str:
    """W&B's mode: the config's; auto follows WANDB_MODE, then whether there is a key.

    Raises UserError for a WANDB_MODE that W&B does not know.
    """
    if config.wandb != "auto":
        return config.wandb
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in MODES:
            raise UserError(
                f"WANDB_MODE={mode}: expected online, offline or disabled; change it, unset it, or set track.wandb="
            )
        return mode
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "api.wandb.ai" in netrc.read_text())
    return "online" if has_key else "offline"


def _start_wandb(config: TrackConfig, mode: Any, folder: Path, job: str, name: str, settings: dict[str, Any]) -> Any:
    import wandb

    identity = folder / "wandb_id"
    if not identity.is_file():
        # W&B's agent has chosen the id of a sweep's trial already. Without an agent, a WANDB_RUN_ID was left in the
        # shell: all runs would share it.
        chosen = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else ""
        write_bytes(identity, (chosen or secrets.token_hex(4)).encode())
    try:
        return wandb.init(
            project=config.project, group=config.group or None, tags=config.tags, job_type=job, name=name,
            id=identity.read_text(), resume="allow", mode=mode, dir=str(folder), config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
    except (wandb.errors.Error, OSError) as error:  # tracking must not cost a run
        log.warning("W&B could not start (%s): metrics.jsonl only", " ".join(str(error).split()))
        return None
