"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """Limits of a server; ValueError for numbers that make no sense.

    Args:
        max_body_bytes: of a request in JSON.
        max_upload_bytes: of a file that is read, or of a memory that is uploaded.
        max_text_tokens: of one text: a document, or all messages of a request without a memory.
        max_new_tokens: of an answer; also what is written where a request names no number.
        max_choices: `n` of a request.
        max_running: requests that may use the model at once.
        max_queue: further ones that wait for it; beyond that is 429.
        max_connections: beyond that is 503.
        max_memories: of one key.
        max_memory_bytes: of each memory, as it is kept.
        slow_seconds: a client that neither sends nor takes a byte for so long is let go.
        save_seconds: a long read is saved about so often, and then told; 0: after every step.
        grace_seconds: what is running may take so long when the server is stopped.
    """

    max_body_bytes: int = 4 * 2**20
    max_upload_bytes: int = 64 * 2**20
    max_text_tokens: int = 20_000_000
    max_new_tokens: int = 1024
    max_choices: int = 8
    max_running: int = 32
    max_queue: int = 128
    max_connections: int = 1000
    max_memories: int = 10_000
    max_memory_bytes: int = 512 * 2**20
    slow_seconds: float = 30.0
    save_seconds: float = 1.0
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name in ("max_queue", "save_seconds") else 1
            if not least <= value < 2**53:
                raise ValueError(f"{one.name} must be at least {least}, got {value}")
