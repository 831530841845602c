"""The training half runs on a bare GPU machine: torch, torchvision, numpy, pillow and safetensors, nothing else."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys
blocked = {"pyarrow", "fsspec", "sklearn", "scipy", "onnxruntime", "faiss", "yaml", "aiohttp"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
for package in ("model", "losses", "train"):
    found = importlib.import_module(f"dinov2_core.{package}")
    for module in pkgutil.iter_modules(found.__path__):
        importlib.import_module(f"dinov2_core.{package}.{module.name}")
"""


def test_the_training_half_imports_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
