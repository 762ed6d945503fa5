"""What a folder in `hmt/systems/` says of its system. Imports neither torch nor transformers by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class System:
    """One published method, in a folder of its own with `config`, `model` and `reference`.

    Attributes:
        name: of the folder, of `hmt train --system` and of tables.
        config_class, model_class: names in the folder's `config` and `model`.
        title, paper: for tables and docs.
        package: of the folder; filled in when it is found.
        examples: small configurations for segments of 8 tokens, by name: what the conformance suite runs.
        bench: what `hmt bench` measures, by name ("" is the system itself): fields that differ from the
            bench's own sizes.
    """

    name: str
    config_class: str
    model_class: str
    title: str
    paper: str = ""
    package: str = ""
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    bench: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(str(import_module(self.package).__file__)).parent

    @property
    def config(self) -> Any:
        """The class of its configuration."""
        return getattr(import_module(f"{self.package}.config"), self.config_class)

    @property
    def model(self) -> Any:
        """The class of its model."""
        return getattr(import_module(f"{self.package}.model"), self.model_class)

    @property
    def reference(self) -> Any:
        """Its plain loop, called as reference(model, ids, labels)."""
        return import_module(f"{self.package}.reference").reference
