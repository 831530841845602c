"""The C library's handling of freed memory, set for steps that allocate the same large tensors again and again.

It concerns tensors on CPUs alone; what a GPU's allocator does does not belong here.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of ``mallopt`` (malloc.h of glibc)"""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees and use it again; whether that could be set (glibc only).

    By default glibc gets every block above 32 MiB from the system and gives it back when freed. Each step then waits
    for the system to clear the same pages again, a fifth of the time of a small step on a virtual machine.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
