"""`hmt serve`: an HTTP server with OpenAI's API, memories that last, and a page."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption, options, takes
from hmt.cli.read import open_model
from hmt.serving.settings import Settings

DEFAULT_MODEL = "smollm2-135m"


@takes(limits=options(Settings))
def command(
    *,
    model: Annotated[
        str, typer.Argument(help="Folder, hub id or short name of a model with memory.", metavar="MODEL")
    ] = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any that is free.", min=0, max=65535)
    ] = 8000,
    store: Annotated[
        str | None,
        typer.Option(help="Where memories are kept: a folder, or a URL as s3://...", metavar="URL"),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys, see hmt keys; each has memories of its own.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without keys: anybody reads everything.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that the server goes by, beside addresses.", metavar="NAME"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called; default: as here.")] = None,
    limits: dict[str, Any],
    device: DeviceOption = None,
) -> None:
    """Serve a model: OpenAI's API, memories that are read once and asked often, and a page to look at them.

    Without keys it can be reached from this machine only. Ctrl-C stops it; what is running is finished or
    saved.
    """
    settings = Settings(**limits)
    serving = _serving()
    from hmt.serving.keys import Keys
    from hmt.serving.server import Server, address, bound, is_loopback
    from hmt.util.signals import Stopped

    known = None if keys is None else Keys(keys)
    if known is None and not is_loopback(host) and not insecure:
        raise ValueError(
            f"--host {host} lets other machines in: make a key (hmt keys add FILE) and pass --keys FILE, or "
            "pass --insecure to let everybody read everything"
        )
    hosts = None if known is not None else {host, *(allow_host or ())}
    place = bound(host, port)  # before the model is loaded
    reader, tokenizer = open_model(model, device)
    from hmt.serving.server import began

    app = serving.create_app(
        reader, tokenizer, store, keys=known, model_id=name or Path(model).name, settings=settings,
        hosts=hosts, began=began,
    )  # fmt: skip
    _log()
    services = app.state.services
    port = place.getsockname()[1]

    def listens() -> None:
        typer.echo(f"memories in {services.url}", err=True)
        if known is not None:
            typer.echo(f"keys in {keys}: {len(known.list())}", err=True)
        elif not is_loopback(host):
            typer.echo("no keys: anybody who reaches this address reads and changes all memories", err=True)
        here = address(host, port)
        typer.echo(f"{services.model_id} at {here} (API: {here}/v1)", err=True)

    try:
        Server(app, host, port, settings, listens).run([place])
    except (KeyboardInterrupt, Stopped):  # uvicorn raises the signal again when all is done
        pass
    typer.echo("stopped; all memories are saved", err=True)


def _serving() -> Any:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f'hmt serve needs {error.name}: pip install "hmt-lm[serve]"') from None
    import hmt.serving

    return hmt.serving


def _log() -> None:
    """One line for each request on stderr, without its texts."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("hmt.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).propagate = False
