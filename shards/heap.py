"""The C library's heap, told to keep what is freed: a batch's memory that goes back to the kernel after each batch has
to be cleared, page by page, for the next, which costs a loader some hundredths of its time."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEEP = 128 << 20  # bytes of freed memory at the heap's end that stay
LARGEST = 32 << 20  # bytes from which memory is asked of the kernel all the same; glibc takes no more


@cache
def keep_freed_memory() -> None:
    """Have this process keep freed memory, where its C library is glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # macOS, musl
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)  # or it would stay at 128 KiB once the other is set (mallopt(3))
    mallopt(M_TRIM_THRESHOLD, KEEP)
