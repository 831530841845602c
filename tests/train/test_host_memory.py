"""Freed memory: kept by the process once asked for, and the same results."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import platform, resource, sys, torch
from dinov2_core.train.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
torch.set_num_threads(1)
work = lambda: torch.ones(16 << 20).sum().item()
for _ in range(8):
    assert work() == 16 << 20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    assert work() == 16 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_tensor_made_again_gets_no_new_pages() -> None:
    # What else lies in the heap is chance: once in some runs one of the four tensors finds no room there.
    kept = min(faults("keep") for _ in range(3))
    assert kept < 1000
    # Four times 64 MiB in pages of 4 KiB, or of 2 MiB where the system hands those out.
    assert faults("default") > 4 * kept
