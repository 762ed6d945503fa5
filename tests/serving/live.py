"""A server in a thread of the test."""

import threading
import time
from contextlib import contextmanager

from hmt.serving import create_app
from hmt.serving.server import Server, began, bound


@contextmanager
def live(runner, store, **options):
    """The URL of an app that is served, and the app; stopped at the end."""
    settings = options.get("settings")
    app = create_app(store=store, runner=runner, model_id="tiny", began=began, **options)
    place = bound("127.0.0.1", 0)
    port = place.getsockname()[1]
    server = Server(app, "127.0.0.1", port, settings or app.state.services.settings)
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
