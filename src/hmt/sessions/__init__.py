"""Memories with a name that last: documents that are read, asked about, replaced and forgotten.

runner = DirectRunner(hmt.load_model("smollm2-135m"))
store = Store()
session = store.create("whales", runner)
session = store.save(session.append(text, name="moby.txt"))
answer, session = session.ask("Who is the captain?")
"""

from hmt.asking.books import Answer
from hmt.asking.found import Found
from hmt.asking.places import Document
from hmt.sessions.archive import export_session
from hmt.sessions.documents import Remembered, Turn
from hmt.sessions.names import check_name
from hmt.sessions.runner import DirectRunner, Options, Runner
from hmt.sessions.session import Session
from hmt.sessions.shelf import Conflict, Damaged, Full, Limits, Missing, Stored
from hmt.sessions.steps import Step, append_steps
from hmt.sessions.store import Store, default_url
from hmt.sessions.tokens import Token

__all__ = [
    "Answer",
    "Conflict",
    "Damaged",
    "DirectRunner",
    "Document",
    "Found",
    "Full",
    "Limits",
    "Missing",
    "Options",
    "Remembered",
    "Runner",
    "Session",
    "Step",
    "Store",
    "Stored",
    "Token",
    "Turn",
    "append_steps",
    "check_name",
    "default_url",
    "export_session",
]
