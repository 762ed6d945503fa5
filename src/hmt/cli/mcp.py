"""`hmt mcp`: memories as tools of an agent, over the Model Context Protocol."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption
from hmt.cli.read import open_model
from hmt.cli.serve import DEFAULT_MODEL


def command(
    *,
    model: Annotated[
        str, typer.Argument(help="Folder, hub id or short name of a model with memory.", metavar="MODEL")
    ] = DEFAULT_MODEL,
    store: Annotated[
        str | None,
        typer.Option(help="Where memories are kept: a folder, or a URL as s3://...", metavar="URL"),
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="Whose memories: default, or those of a key (hmt keys list).")
    ] = "default",
    files: Annotated[
        list[Path] | None,
        typer.Option(help="A folder whose files may be read by their path.", metavar="FOLDER"),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Give an agent memories as tools: read, recall, ask, forget and list.

    Speaks the Model Context Protocol on standard input and output; a client starts it, such as with
    {"command": "hmt", "args": ["mcp", "--files", "/home/me/notes"]}. Memories are those that hmt serve has
    without keys.
    """
    tools = _tools()
    from hmt.systems import load_config

    for folder in files or ():
        if not folder.is_dir():
            raise ValueError(f"--files {folder} is no folder")
    load_config(model)  # what is wrong with the name shows before the client waits for the model
    from hmt.serving.memories import Memories
    from hmt.serving.settings import Settings
    from hmt.sessions import Limits, Store

    settings = Settings()
    url = str(Store(store, namespace).url)

    def open_() -> Any:
        from hmt.model.asking import check_question
        from hmt.serving.answers import Answers
        from hmt.serving.running import make_runner

        reader, tokenizer = open_model(model, device)
        check_question(reader, [])
        runner = make_runner(reader, tokenizer)
        answers = Answers(runner, settings.max_text_tokens)
        return Memories(url, namespace, Limits(), runner, settings.save_seconds), answers

    opened = _begun(open_)
    try:
        tools.make_server(tools.Tools(opened.result, files or (), settings)).run()
    finally:
        if opened.done() and opened.exception() is None:
            opened.result()[0].runner.shutdown(finish=False, timeout=5)  # nobody waits for it any more


def _begun(work: Any) -> Future:
    """A function's result, which is being made: clients wait some seconds for the first answer, no longer."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            typer.echo(f"the model cannot be loaded: {error}", err=True)
            future.set_exception(error)

    # of no use to anybody once the client has gone
    threading.Thread(target=run, name="load model", daemon=True).start()
    return future


def _tools() -> Any:
    try:
        import fastapi  # noqa: F401
        import mcp  # noqa: F401
        import multipart  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ValueError(f'hmt mcp needs {error.name}: pip install "hmt-lm[mcp]"') from None
    import hmt.serving.mcp

    return hmt.serving.mcp
