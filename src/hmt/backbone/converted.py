"""GGUF files as folders of transformers: converted once, kept in the cache folder, found again by content.

A folder is `<cache>/backbones/<stem>-<hash>-<layout>` and holds bfloat16 weights, configs, the tokenizer with
its chat template, and `source.json`. It appears whole or not at all, and can be deleted at any time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hmt.util.cache import cache_directory
from hmt.util.files import disk_errors
from hmt.util.progress import Bars, library_bars

LAYOUT = 1  # raise it when what is written changes: folders of earlier ones are then made again
_RECORD = "source.json"
_PART = ".hmt-part"


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF file."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def sha256_of(path: Path) -> str:
    """64 hex digits that name the content of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def converted(file: Path, sha256: str, name: str | None = None) -> Path:
    """The folder made of a GGUF file, now or earlier; a second process waits for the first.

    Args:
        sha256: `sha256_of(file)`.
        name: what it is called to the user; None: its file name.
    ValueError for a file that cannot be read, is not all there, or holds no causal LM that transformers
    knows; OSError where the folder cannot be written. Neither leaves anything behind.
    """
    home = cache_directory() / "backbones"
    folder = home / f"{file.stem}-{sha256[:16]}-{LAYOUT}"
    if _whole(folder):
        return folder
    with disk_errors(home, "free some space, or set HMT_CACHE to a folder with more"):
        home.mkdir(exist_ok=True)
        with FileLock(home / f".{folder.name}.lock"):
            if not _whole(folder):
                for left in home.glob(f".{folder.name}.*{_PART}"):  # of a killed process: we hold the lock
                    shutil.rmtree(left, ignore_errors=True)
                _convert(file, sha256, name or file.name, folder)
    return folder


def _convert(file: Path, sha256: str, name: str, folder: Path) -> None:
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_PART, dir=folder.parent))
    task = f"converting {name}, once"
    try:
        with Bars() as bars, library_bars(False):
            bars(task, 0, 3, "tokenizer")
            with _in_words(file):
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            bars(task, 1, 3, "weights")
            with _in_words(file):
                model = _plain(file)
            bars(task, 2, 3, f"writing {folder}")
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
            record = {"file": file.name, "sha256": sha256, "layout": LAYOUT, "sizes": sizes}
            (part / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
            part.chmod(0o777 & ~_umask())
            shutil.rmtree(folder, ignore_errors=True)  # one that is not whole
            os.replace(part, folder)
            bars(task, 3, 3)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _plain(file: Path) -> PreTrainedModel:
    """The model in bfloat16 and without quantisation, which `save_pretrained` refuses."""
    options: dict[str, Any] = {"gguf_file": file.name, "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    read, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"it lacks {len(missing)} tensors of a {read.config.model_type}, such as {missing[0]}"
        )
    weights = {key: value.to(torch.bfloat16) for key, value in read.state_dict().items()}
    if broken := next((key for key, value in weights.items() if not value.isfinite().all()), None):
        raise ValueError(f"its tensor {broken} holds numbers that are not finite")
    config: Any = copy.deepcopy(read.config)
    del config.quantization_config
    config.dtype = torch.bfloat16
    with torch.device("meta"):  # what is about to be replaced needs no memory
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model


@contextmanager
def _in_words(file: Path) -> Iterator[None]:
    """What the readers of transformers and gguf raise at a file, of whatever class, as a ValueError."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{file} cannot be used as a backbone, it is damaged or of another kind ({reason}); fetch it "
            "again, or name another"
        ) from error


def _whole(folder: Path) -> bool:
    """Whether a folder holds the files it was made with, as far as their sizes say."""
    try:
        sizes = json.loads((folder / _RECORD).read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
