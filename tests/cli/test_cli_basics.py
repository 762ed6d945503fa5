"""The command line: help stays light, `hmt env` tells the truth, errors are one line."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from hmt.cli import COMMANDS, app
from hmt.cli.errors import as_typed

HEAVY = ["torch", "transformers", "datasets", "matplotlib"]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run `code` in a fresh interpreter that finds the same packages as this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_import_and_help_load_nothing_heavy():
    code = f"""
import sys
import hmt.cli
heavy = lambda: [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy(), heavy()
for arguments in [["--help"], *([name, "--help"] for name in hmt.cli.COMMANDS)]:
    sys.argv[1:] = arguments
    try:
        hmt.cli.main()
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)
    print("after", *arguments, "loaded:", heavy())
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stdout.splitlines() if line.startswith("after")]
    assert len(said) == len(COMMANDS) + 1
    assert all(line.endswith("loaded: []") for line in said), said


def test_env_prints_a_table():
    result = CliRunner().invoke(app, ["env"])
    assert result.exit_code == 0, result.output
    for word in "hmt python torch transformers cores memory_total devices backbone_dtype".split():
        assert word in result.stdout


def test_env_json_matches_this_process():
    result = CliRunner().invoke(app, ["env", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["cores"] == os.cpu_count()
    assert facts["backbone_dtype"] in (None, "bfloat16", "float32")
    assert facts["environment"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert 0 < facts["memory_available"] <= facts["memory_total"]
    assert len([d for d in facts["devices"] if d["device"].startswith("cuda")]) == torch.cuda.device_count()


@pytest.fixture
def failing_app(monkeypatch):
    """The real app with one more command, `fail`, which raises what the test puts into the returned list."""
    errors: list[BaseException] = []

    def fail() -> None:
        raise errors[0]

    # Registered on a copy of the list, so that the command is gone after the test.
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command("fail")(fail)
    return errors


@pytest.mark.parametrize(
    "error, line, code",
    [
        (
            ValueError("segment_length must be positive,\n  got 0"),
            "error: segment_length must be positive, got 0",
            2,
        ),
        (ValueError(), "error: ValueError", 2),
        (FileNotFoundError(2, "No such file", "book.txt"), "error: no such file or folder: book.txt", 2),
        (PermissionError(13, "Permission denied", "m.hmt"), "error: Permission denied: m.hmt", 2),
        (OSError("a store, and what it says"), "error: a store, and what it says", 2),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_user_errors_are_one_line(failing_app, error, line, code):
    failing_app.append(error)
    result = CliRunner().invoke(app, ["fail"])
    assert (result.exit_code, result.stderr.strip(), result.stdout) == (code, line, "")


@pytest.mark.parametrize("arguments, variables", [(["--debug", "fail"], {}), (["fail"], {"HMT_DEBUG": "1"})])
def test_debug_shows_the_traceback(failing_app, arguments, variables):
    failing_app.append(ValueError("no"))
    result = CliRunner().invoke(app, arguments, env=variables)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and result.stderr.endswith("error: no\n")


def test_other_exceptions_keep_their_traceback(failing_app):
    failing_app.append(RuntimeError("a bug"))
    result = CliRunner().invoke(app, ["fail"])
    assert isinstance(result.exception, RuntimeError)


def test_a_reader_that_has_gone_ends_a_command_quietly(failing_app):
    failing_app.append(BrokenPipeError(32, "Broken pipe"))
    result = CliRunner().invoke(app, ["fail"])
    assert result.exit_code == 1 and "error" not in result.stderr and "Traceback" not in result.stderr


def test_unknown_command_is_a_usage_error():
    assert CliRunner().invoke(app, ["no-such-command"]).exit_code == 2


def test_tests_cannot_reach_the_network():
    with pytest.raises(RuntimeError, match="a test tried to"):
        socket.create_connection(("example.com", 80), timeout=1)
    with pytest.raises(RuntimeError, match="a test tried to"):
        socket.socket().connect(("192.0.2.1", 80))


@pytest.mark.parametrize(
    "command, text, typed",
    [
        ("train", "Choose one with text_field=, or list", "Choose one with --text-field, or list"),
        ("train", "learning_rate must be above 0", "--lr must be above 0"),
        ("train", "such as encoding='latin-1' (--encoding)", "such as --encoding 'latin-1' (--encoding)"),
        ("train", "pass resume=True to go on", "pass --resume to go on"),
        ("train", "must be at least 1, or None for all.", "must be at least 1, or none for all."),
        ("train", "it has: seed, save_steps, x", "it has: seed, save_steps, x"),
        ("train", "no field 'lora_r', lora_r is", "no field 'lora_r', --lora-r is"),
        ("train", "--set takes seed=3", "--set takes seed=3"),
        ("demo", "Choose one with text_field=, or list", "Choose one with text_field, or list"),
        ("demo", "a=b is not there", "a=b is not there"),
    ],
)  # fmt: skip
def test_errors_name_options_as_they_are_typed(command, text, typed):
    assert as_typed(text, typer.main.get_command(app).commands[command].params) == typed
