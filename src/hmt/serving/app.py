"""The ASGI app of a server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from hmt.model.asking import check_question
from hmt.serving import errors
from hmt.serving.guard import Guard
from hmt.serving.keys import Keys
from hmt.serving.metrics import Metrics
from hmt.serving.routes import chat, completions, health, memories, models, page, responses
from hmt.serving.running import make_runner
from hmt.serving.schema import ERRORS
from hmt.serving.services import Services
from hmt.serving.settings import Settings
from hmt.sessions import Runner, Store, default_url


def create_app(
    model: Any = None,
    tokenizer: Any = None,
    store: Store | str | os.PathLike | None = None,
    *,
    runner: Runner | None = None,
    keys: Keys | None = None,
    model_id: str | None = None,
    settings: Settings | None = None,
    hosts: Collection[str] | None = None,
    began: Callable[[bool], None] = lambda there: None,
) -> FastAPI:
    """The app that answers with a model.

    Args:
        model: that can be asked. tokenizer: of it.
        store: where memories are; a `Store` names the place only: each key has a namespace of its own there.
        runner: in place of model and tokenizer; it is not closed with the app.
        keys: who may ask; None: everybody, as one.
        model_id: what the model is called; None: the last part of its name.
        settings: its limits.
        hosts: names that the server goes by, beside addresses and localhost; None: any. Without keys this
            keeps web pages out that have their own name lead here.
        began: see `hmt.serving.guard.Guard`.
    ValueError for a model that cannot be asked.
    """
    settings = settings or Settings()
    check_question(model if runner is None else runner.model, [])
    engine = None
    if runner is None:
        runner = engine = make_runner(model, tokenizer, settings)
    url = store.url if isinstance(store, Store) else default_url() if store is None else store
    model_id = model_id or os.path.basename(str(runner.model.config.name_or_path).rstrip("/")) or "hmt"
    metrics = Metrics()
    services = Services(runner, url, model_id, settings, int(time.time()), metrics)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        services.stop()
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, timeout=10)

    # no pages of FastAPI's: they load from other hosts
    app = FastAPI(title="hmt", version="1", docs_url=None, redoc_url=None, lifespan=life, responses=ERRORS)
    app.state.services = services
    errors.install(app)
    for part in (models, chat, completions, responses, memories, health, page):
        app.include_router(part.router)
    app.add_middleware(Guard, settings=settings, metrics=metrics, keys=keys, hosts=hosts, began=began)
    return app
