"""What every published number carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hmt.cli.env import collect


def setup() -> dict[str, Any]:
    """Versions, hardware, command and commit ("+" when the tree has changes that are not in it)."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    command = " ".join(["python", *sys.argv])
    return {**collect(), "command": command, "commit": git("rev-parse", "--short", "HEAD") + changed}
