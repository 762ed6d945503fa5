"""Options come from what they fill: names, types, defaults and help are said once."""

import dataclasses
import inspect
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
import typer
from transformers import PreTrainedConfig
from typer.testing import CliRunner

from hmt.bench.settings import Settings
from hmt.cli import COMMANDS, app
from hmt.cli.fields import args_section, config_fields, fields_of, system_fields
from hmt.cli.options import Command, options, takes
from hmt.cli.train import set_fields
from hmt.cli.values import parse_value, text_of
from hmt.systems import get
from hmt.systems import names as system_names
from hmt.training.recipe import Recipe, paper_recipe
from hmt.training.start import OF_THE_BACKBONE


@dataclasses.dataclass
class Plan:
    """A plan.

    Args:
        size: how large; None means as large as `limits` allow.
        limits, ratio: what stands for
            both [k].
        mode: which one.
        fast: quick and dirty.

    More words.
    """

    size: int | None = None
    limits: tuple[int, ...] = (2048, 3)
    ratio: float = 1e-5
    mode: Literal["a", "b"] | None = None
    fast: bool = False


@pytest.fixture
def run():
    """Runs a command whose parameter `plan` is made of options; returns the result and the plan."""
    seen: list[Any] = []
    plans = options(Plan, names={"size": "-s"}, panels={"Sizes": "limits size"})
    program = typer.Typer(rich_markup_mode=None)

    @program.command(cls=Command)
    @takes(plan=plans)
    def command(plan: dict[str, Any], out: Annotated[str, typer.Option(help="Where to.")] = "here") -> None:
        seen.append((Plan(**plan), out))

    def call(*arguments):
        result = CliRunner().invoke(program, [str(a) for a in arguments], env={"COLUMNS": "120"})
        return result, seen[-1] if seen else None

    return call


def test_defaults_and_values(run):
    assert run()[1] == (Plan(), "here")
    arguments = (
        "-s",
        "2k",
        "--limits",
        "1, 4,1M",
        "--ratio",
        "0.5",
        "--mode",
        "b",
        "--fast",
        "--out",
        "there",
    )
    assert run(*arguments)[1] == (Plan(2048, (1, 4, 2**20), 0.5, "b", True), "there")
    assert run("--mode", "none", "--size", "none")[1] == (Plan(), "here")


def test_help_page(run):
    text = run("--help")[0].output
    for words in (
        "--size",
        " -s,",
        "How large. Default: as large as limits allow.",
        "[default: 2k,3]",
        "1e-05",
    ):
        assert words in text
    for words in ("What stands for both [k].", "<a|b|none>", "Quick and dirty.", "Sizes", "Where to."):
        assert words in text


def test_a_value_that_cannot_be_read(run):
    assert "--limits takes numbers" in str(run("--limits", "1,x")[0].exception)
    assert "--size: '1.5' is not a whole number" in str(run("--size", "1.5")[0].exception)


def test_names_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="no field sise"):
        options(Plan, panels={"Sizes": "sise"}).parameters()


def test_args_section():
    found = args_section(inspect.getdoc(Plan))
    assert found["limits"] == found["ratio"] == "what stands for both [k]."
    assert list(found) == ["size", "limits", "ratio", "mode", "fast"]
    assert args_section("No such section.") == {}


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (int, " 8k ", 8192),
        (int | None, "none", None),
        (float, "1e-3", 1e-3),
        (float | int | Literal["embedding"], "embedding", "embedding"),
        (float | int | Literal["embedding"], "0.5", 0.5),
        (str | None, "a,b", "a,b"),
        (bool, "yes", True),
        (tuple[int, ...], "", ()),
        (tuple[str, ...], "a, b", ("a", "b")),
        (tuple[int, float], "1,2.5", (1, 2.5)),
        (Sequence[int], "2,4", (2, 4)),
        (Literal[4, 8], "8", 8),
    ],
)
def test_values(kind, text, value):
    found = parse_value("--x", text, kind)
    assert found == value and type(found) is type(value)
    if value is not None:
        assert parse_value("--x", text_of(value), kind) == value


@pytest.mark.parametrize(
    "kind, text, message",
    [
        (int, "1.5", "--x: '1.5' is not a whole number"),
        (float, "much", "--x: 'much' is not a number"),
        (bool, "perhaps", "say true or false"),
        (Literal["a", "b"], "c", "--x: choose from a, b"),
        (tuple[int, ...], "2k,x", "such as 2k,8k,1M"),
        (tuple[int, int], "1", "there should be 2 values"),
        (dict, "1", "cannot be given on the command line"),
    ],
)
def test_values_that_cannot_be_read(kind, text, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse_value("--x", text, kind)


@pytest.mark.parametrize("system", system_names())
def test_configurations_are_read_as_they_are_imported(system):
    config = get(system).config
    real = {one.name: one for one in dataclasses.fields(config)}
    found = config_fields(system)
    theirs = {one.name for one in dataclasses.fields(PreTrainedConfig)}
    assert config.of_the_backbone == OF_THE_BACKBONE
    assert real.keys() - theirs - {"text_config"} <= found.keys()
    for name, one in found.items():
        field = real[config.option_names.get(name, name)]
        assert (one.kind, one.default) == (field.type, field.default), name
        assert one.help or name in OF_THE_BACKBONE, name


def test_every_system_has_its_fields_among_the_options():
    fields = system_fields(system_names())
    for system in system_names():
        assert config_fields(system).keys() <= fields.keys()
    assert "hmt: Memory embeddings kept" in fields["memory_size"].help
    assert "rmt: Memory vectors" in fields["memory_size"].help
    assert fields["segment_length"].help.count("Default") == 1


@pytest.mark.parametrize("sources", [(Settings,), (paper_recipe, Recipe)])
def test_every_option_has_help(sources):
    without = {"stages"}
    helps = {name: one.help for name, one in fields_of(*sources).items() if name not in without}
    stage = {"learning_rate", "lr_schedule", "lr_decay", "lr_decay_every"}
    stage |= {"recall_loss_weight", "recall_negatives", "repetition"}
    assert {name for name, help in helps.items() if not help} <= stage  # said of `Stage`


def test_set_fields():
    assert set_fields(None, ["recall_dim=8", "memory_scale=embedding"]) == {
        "recall_dim": 8,
        "memory_scale": "embedding",
    }
    assert set_fields("rmt", ["num_memory_tokens=2"]) == {"num_memory_tokens": 2}
    for system, pair, message in [
        ("rmt", "recall_dim=8", "the system 'rmt' has no 'recall_dim'; it has segment_length"),
        (None, "recall_dim", "--set takes FIELD=VALUE"),
        (None, "recall_dim=x", "--set recall_dim=x: 'x' is not a whole number"),
        (None, "adapter_only=true", "has no 'adapter_only'"),
        ("lstm", "a=1", "there is no 'lstm'; choose from armt, hmt"),
    ]:
        with pytest.raises(ValueError, match=message):
            set_fields(system, [pair])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_is_folded_and_never_cut_off(width):
    for name in COMMANDS:
        words = [name, "info"] if name == "memory" else [name]
        page = CliRunner().invoke(app, [*words, "--help"], terminal_width=width).output
        command = typer.main.get_command(app)
        for word in words:
            command = command.commands[word]
        shown = page.split()
        assert all(
            opt in shown or f"{opt}," in shown
            for one in command.params
            for opt in one.opts[-1:]
            if "-" in opt
        )
        long = [line for line in page.splitlines() if len(line) > width]
        assert "…" not in page and all(
            line.strip().startswith(("hmt", "zcat", "--system")) for line in long
        ), long


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_parsed(name):
    page = " ".join(CliRunner().invoke(app, [name, "--help"]).output.split())
    assert 1 <= len(COMMANDS[name]) <= 3
    for example in COMMANDS[name]:
        assert example in page
        words = shlex.split(example.split("|")[-1])
        assert words[:2] == ["hmt", name]
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command, words = command.commands[words[1]], words[1:]
        command.make_context(name, words[1:])
