"""Which signals stop a run, and who answers them."""

import ctypes
import os
import signal
import sys
import threading

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def obey_only_the_parent() -> None:
    """In a loader worker: signals that are sent to the whole process group are the parent's to answer.

    The parent's own SIGTERM, by which a data loader ends its workers, still does. A thread waits for signals because
    only it learns who sent them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while True:
            found = signal.sigwaitinfo(SIGNALS)
            if found.si_signo == signal.SIGTERM and found.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """In a child of process `parent`: ask the kernel for this signal when that dies, even by SIGKILL, so that nobody is
    orphaned. Where it has died before it could be asked, end here."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
