"""Run a function over a list of tasks in worker processes, with one progress bar counted in images."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from shards.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class Stopped(Exception):
    """Another task failed or the user interrupted: the running task should end."""


_tick: Callable[[int], None] = lambda count: None  # noqa: E731


def tick(count: int = 1) -> None:
    """Called by a task for every image it is done with. Raises Stopped when the whole run is to end."""
    _tick(count)


def cores() -> int:
    """Cores this process may use (a Slurm job may not use all of the node's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, total: int, label: str, preload: Sequence[str] = ()
) -> list[R]:
    """`function(task)` of every task, in order, in `workers` processes (0 = every core; 1 = in this process).

    total: images in all tasks, for the bar on stderr. preload: modules to import once for all processes.
    The first exception stops the other tasks and is raised again.
    Raises UserError when a process is killed from outside (memory, usually).
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0  # a log file needs only an occasional line
    with tqdm(total=total, desc=label, unit="img", mininterval=interval, file=sys.stderr, leave=False) as bar:
        workers = min(workers or cores(), len(tasks))
        if workers <= 1:
            return _run_here(function, tasks, bar)
        return _run_processes(function, tasks, workers, bar, preload)


def _run_here(function: Callable[[T], R], tasks: Sequence[T], bar: Any) -> list[R]:
    global _tick
    before, _tick = _tick, bar.update
    try:
        return [function(task) for task in tasks]
    finally:
        _tick = before


def _run_processes(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, bar: Any, preload: Sequence[str]
) -> list[R]:
    # forkserver: the caller may hold threads and locks of torch, which a plain fork would copy in any state.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *preload])
    done, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(workers, context, _start, (done, stop)) as executor:
        futures: list[Future[R]] = [executor.submit(function, task) for task in tasks]
        try:
            waiting: set[Future[R]] = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2)
                bar.update(done.value - bar.n)
                for future in finished:
                    future.result()
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                f"{bar.desc}: a process was killed from outside (out of memory?); "
                "run the same command again, with fewer workers= where memory is short"
            ) from error
        except BaseException:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _start(done: Any, stop: Any) -> None:
    """In each new process: count images together, stop together, and do not outlive the parent."""
    global _tick

    def count_image(count: int) -> None:
        with done.get_lock():
            done.value += count
        if stop.is_set():
            raise Stopped

    _tick = count_image
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sets `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns when the parent is gone, by SIGKILL too: the pool's own queue would wait for ever
        os._exit(1)
