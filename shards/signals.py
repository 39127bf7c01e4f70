"""Which signals stop a run, and who answers them."""

import os
import signal
import threading

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
