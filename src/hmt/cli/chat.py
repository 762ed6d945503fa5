"""`hmt chat`: a conversation with a model that remembers what it has read."""

import shlex
from typing import Annotated

import typer

from hmt.cli.options import DeviceOption

SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session",
        "-s",
        help="Name under which all is kept; new, or gone on with. Without one nothing is kept.",
        metavar="NAME",
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Folder or URL (s3://...) of sessions. Default: in $HMT_HOME, or ~/.local/share/hmt.",
        metavar="URL",
        show_default=False,
    ),
]


def command(
    *,
    model: Annotated[
        str, typer.Argument(help="Folder, hub id or short name of a model with memory.", metavar="[MODEL]")
    ] = "smollm2-135m",
    session: SessionOption = None,
    store: StoreOption = None,
    read: Annotated[
        list[str] | None,
        typer.Option("--read", help="Read this first, as /read; several times.", metavar="FILE"),
    ] = None,
    top: Annotated[int, typer.Option(help="Passages that /where and /recall show, at most.", min=1)] = 4,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="Sample; 0 takes the most likely token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample among so many likeliest tokens; 0: all.")] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampling. Default: another one every time.")
    ] = None,
    remember: Annotated[
        bool,
        typer.Option("--remember", help="Read questions and answers into the memory, too."),
    ] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read a session's texts again if another model read them.")
    ] = False,
    device: DeviceOption = None,
) -> None:
    """Read documents, ask about them, and see where the answers stand.

    A line is a question; one that begins with / is a command: /help lists them. Ctrl-C stops an answer,
    Ctrl-D ends. Lines from a pipe are taken one by one, and the exit code is 2 if any of them failed.
    """
    from hmt.cli.conversation import Conversation
    from hmt.cli.read import open_model
    from hmt.sessions import DirectRunner, Options, Session, Store, check_name

    options = Options(max_new_tokens, temperature, top_p, top_k, seed)
    kept = None
    if session is not None:
        check_name(session)
        kept = Store(store)
    elif store is not None:
        raise ValueError("--store keeps a session, which needs a name: --session NAME")
    runner = DirectRunner(*open_model(model, device))
    if kept is None:
        now = Session.new("chat", runner)
    elif kept.exists(session or ""):
        now = kept.open(session or "", runner, reread=reread)
    else:
        now = kept.create(session or "", runner)
    conversation = Conversation(now, kept, options, top=top, remember=remember, model=model)
    conversation.greet()
    for file in read or ():
        conversation.take(f"/read {shlex.quote(file)}")
    conversation.run()
    if conversation.failed and not conversation.typed:
        raise typer.Exit(2)
