"""What is compared: memory models beside a window, retrieval and full attention, all with the same face.

    rows = rows_at(model, [parse_bytes("64KiB")], tokenizer)
    kept = rows[0].read(ids)
    rows[0].generate(kept, question, 32), rows[0].nats(kept, question, answer)

`base` says what a reader is; `memory` holds the models with memory, `rolling` caches of keys and values,
`plain` what readers of raw tokens share (`window`, `retrieval`); `budget` makes rows at equal bytes. The
names are those of `__init__.pyi`, imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
