"""The data lake: where the data lies and what the settings of each stage are.

Settings come from ``params.yaml`` (one section a stage; a missing section means the paper's constants).
"""

from __future__ import annotations

import os
from typing import Any

import dagster as dg
import yaml

from dinov2_core.errors import ConfigError, nearest
from dinov2_core.stages import registry
from dinov2_core.storage import Store


class Lake(dg.ConfigurableResource):
    """``data_root``: a folder or an fsspec URL such as ``s3://bucket/prefix``. ``params_file``: a YAML file."""

    data_root: str = "data"
    params_file: str = "params.yaml"

    @classmethod
    def from_environment(cls) -> Lake:
        return cls(
            data_root=os.environ.get("DATA_ROOT", "data"), params_file=os.environ.get("DINOV2_PARAMS", "params.yaml")
        )

    def store(self) -> Store:
        return Store(self.data_root)

    def all_params(self) -> dict[str, Any]:
        """The whole settings file, checked for unknown sections."""
        if not os.path.exists(self.params_file):
            raise ConfigError(
                "no settings file",
                where=self.params_file,
                todo="set DINOV2_PARAMS or copy the repository's params.yaml",
            )
        with open(self.params_file, encoding="utf-8") as f:
            try:
                body = yaml.safe_load(f) or {}
            except yaml.YAMLError as error:
                raise ConfigError(f"not valid YAML: {error}", where=self.params_file) from error
        for section in body:
            if section not in registry.STAGES:
                raise ConfigError(
                    f"unknown section '{section}'{nearest(section, registry.STAGES)}", where=self.params_file
                )
        return body

    def params(self, stage: str) -> dict[str, Any]:
        return self.all_params().get(stage) or {}

    def batches(self) -> list[str]:
        """Crawl batches under the sources prefix, sorted."""
        from dinov2_core.stages import raw_crawl

        params = registry.get("raw_crawl").load_params(self.params("raw_crawl"))
        return raw_crawl.batches(self.store(), params)
