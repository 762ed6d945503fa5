"""Numbers and names in prose are those of the registry."""

import re
from pathlib import Path

import pytest

from hmt.evaluation.readers.budget import BASELINES
from hmt.evaluation.tasks import TASKS, task_class

ROOT = Path(__file__).parents[3]


def test_the_readme_counts_the_tasks():
    (number,) = re.findall(r"(\d+) tasks", (ROOT / "README.md").read_text())
    assert int(number) == len(TASKS)


@pytest.mark.parametrize(("section", "names"), [("Tasks", set(TASKS)), ("Rows: readers", set(BASELINES))])
def test_the_tables_name_all_there_are(section, names):
    text = (ROOT / "docs" / "evaluation.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    assert {name for cell in cells for name in re.findall("`([^`]+)`", cell)} == names


def test_the_command_line_names_all_baselines():
    from hmt.cli.eval import command

    (option,) = command.__annotations__["baselines"].__metadata__
    assert ", ".join(BASELINES) in option.help


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_name_it_is_found_by(name):
    assert task_class(name).name == name
