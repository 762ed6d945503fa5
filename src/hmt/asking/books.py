"""`ask` and `recall`: books, a model that has read them, and questions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmt.asking.found import Found
from hmt.asking.places import Document, Places
from hmt.asking.reading import Progress, read_documents
from hmt.data.documents import named_texts
from hmt.model.asking import answer_header, ask_memory, check_question, question_ids
from hmt.util.files import is_kind, is_url

if TYPE_CHECKING:
    from hmt.memory.memory import Memory

logger = logging.getLogger(__name__)

MODEL = "smollm2-135m"
Source = str | os.PathLike


@dataclass(frozen=True)
class Texts:
    """What is to be asked, before a model is there.

    Attributes:
        sources: the documents of each source.
        memory: instead, a `Memory` or a memory file.
    """

    sources: list[list[Document]]
    memory: Any = None

    @classmethod
    def of(cls, sources: Any, **text: Any) -> Texts:
        """What `Books.open` takes; ValueError for what cannot be read or holds no text."""
        from hmt.memory.memory import Memory

        several = not isinstance(sources, (str, os.PathLike, Memory))
        paths: list[Any] = list(sources) if several else [sources]
        given = [path for path in paths if isinstance(path, Memory) or _is_memory_file(path)]
        if given and len(paths) > 1:
            raise ValueError(f"{given[0]} is a memory, which is asked alone; name it without other files")
        if not paths:
            raise ValueError("there is nothing to ask: name a text or a memory file")
        if given:
            return cls([], given[0])
        return cls([[Document(*one) for one in named_texts(path, **text)] for path in paths])


@dataclass(frozen=True)
class Answer:
    """An answer, and what was recalled for it, by weight.

    The model reads as many of the first passages again as it was made for, in the order of the text.

    ids: the tokens that were written, special ones included.
    """

    question: str
    answer: str
    passages: list[Found]
    ids: tuple[int, ...] = ()


class Books:
    """What a model has read, to be asked about.

    Every question is asked of what was read, not of the questions before it. Nothing here changes.

    Args:
        model, tokenizer: of each other.
        memory: of one stream of the model.
        documents, places: what it has read; none of a memory that was read elsewhere.

    ValueError for a memory of several streams, of another model, or of a model that keeps no passages.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        memory: Memory,
        documents: Sequence[Document] = (),
        places: Places | None = None,
    ):
        if memory.batch_size != 1:
            raise ValueError(f"the memory holds {memory.batch_size} streams, and one is asked at a time")
        check_question(model, [])
        self.model, self.tokenizer = model, tokenizer
        self.memory = model.flush(memory)
        self.documents, self._places = list(documents), places or Places()
        self._tell_forgotten()

    @classmethod
    def open(
        cls,
        sources: Source | Memory | Sequence[Source] | Texts,
        model: Any = MODEL,
        tokenizer: Any = None,
        *,
        asking: str | None = None,
        progress: Progress = lambda tokens, total: None,
        **text: Any,
    ) -> Books:
        """Books that are read now, or were read before by the same model: then their memory is in the cache.

        Args:
            sources: files, folders and URLs as of `hmt.data.load_documents`, in one memory, in this order;
                or a memory file, or a `Memory`.
            model: a model with memory, or what `hmt.load_model` takes.
            tokenizer: of a model that is given as an object, if its folder or backbone has none.
            asking: a question to come, which is checked before anything is read.
            progress: called as progress(tokens read, of so many or None).
            text: `text_field`, `encoding`, `errors` of `load_documents`.

        ValueError for what cannot be read or holds no text, for another model's memory, for a model that
        keeps no passages, and for a question that cannot be asked.
        """
        from hmt.memory.memory import Memory

        texts = sources if isinstance(sources, Texts) else Texts.of(sources, **text)
        model, tokenizer = _opened(model, tokenizer)
        check_question(model, [] if asking is None else question_ids(tokenizer, asking))
        if texts.memory is not None:
            given = texts.memory
            memory = given if isinstance(given, Memory) else Memory.load(given, model=model)
            return cls(model, tokenizer, memory)
        reading = read_documents(model, tokenizer, texts.sources, progress)
        assert reading.memory is not None
        together = [document for source in texts.sources for document in source]
        return cls(model, tokenizer, reading.memory, together, reading.places)

    # -- asking -------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        top: int = 4,
        max_new_tokens: int = 64,
        streamer: Any = None,
        **generation: Any,
    ) -> Answer:
        """The answer to a question, greedy unless `generation` (options of `generate`) says otherwise.

        Args:
            top: passages to give with it, at most.
            streamer: gets the tokens as they are written, see transformers' `TextStreamer`.

        ValueError for a question that is empty or too long.
        """
        import torch

        asked, passages = self._asked(question, top)
        header = torch.tensor([answer_header(self.tokenizer)], device=self.model.input_device)
        if not generation.get("do_sample"):  # None silences settings of the model that only sampling reads
            generation = {"temperature": None, "top_p": None, "top_k": None, **generation}
        written = self.model.generate(
            header,
            attention_mask=torch.ones_like(header),
            past_key_values=asked,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            **{"do_sample": False, "pad_token_id": self.tokenizer.pad_token_id, **generation},
        )
        ids = written[0, header.shape[1] :].tolist()
        answer = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(question, answer.strip(), passages, tuple(ids))

    def recall(self, text: str, top: int = 4) -> list[Found]:
        """What is recalled for a text, by weight, at most `top` passages. ValueError as of `ask`."""
        return self._asked(text, top)[1]

    def _asked(self, question: str, top: int) -> tuple[Memory, list[Found]]:
        asked = ask_memory(self.model, self.memory, question_ids(self.tokenizer, question))
        passages = self.model.recalled(asked, top)[0]
        spans = {} if self.documents else dict(self._spans())
        return asked, [self._found(passage, spans) for passage in passages]

    # -- where it was read ----------------------------------------------------------------------------------

    def _found(self, passage: Any, spans: dict[int, tuple[int, int]]) -> Found:
        text = None if passage.ids is None else self.tokenizer.decode(passage.ids, skip_special_tokens=True)
        found = self._places.of(passage.segment, self.model.segment_length)
        if found is None:
            span = spans[passage.segment]
            return Found(passage.weight, passage.segment, text, None, span, read_again=passage.read_again)
        document = self.documents[found[0]]
        return Found.at(passage, found[1], text, *document)

    def _held(self) -> list[int]:
        """The segment in each slot of the memory, -1 in an empty one."""
        return self.model.retrieval.held(self.memory.segments_read)[0].tolist()

    def _spans(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """(segment, from and to which token) of all that is held, of a memory whose documents are unknown."""
        held = self._held()
        tokens = self.model.remembered(self.memory, 0, list(range(len(held))))
        end = int(self.memory.tokens_read[0])
        for segment, ids in sorted(zip(held, tokens, strict=True), reverse=True):
            if segment >= 0:
                yield segment, (end - len(ids), end)
                end -= len(ids)

    def _tell_forgotten(self) -> None:
        """A warning of what the memory is too small for."""
        size, segments = len(self._held()), int(self.memory.segments_read[0])
        lost = segments + 1 - size  # the question takes a place, too
        if lost > 0:
            logger.warning(
                "The memory holds %d segments: the first %d of %d are no longer recalled.",
                size, lost, segments,
            )  # fmt: skip


def ask(source: Any, question: str, model: Any = MODEL, tokenizer: Any = None, **options: Any) -> Answer:
    """The answer of `model` to a question about `source`; see `Books.open` and `Books.ask`.

    A model that is given by name is loaded at every call: for several questions use `hmt.Books.open`.
    """
    return Books.open(source, model, tokenizer, asking=question).ask(question, **options)


def recall(source: Any, text: str, model: Any = MODEL, tokenizer: Any = None, top: int = 4) -> list[Found]:
    """What `model` recalls of `source` for a text, by weight; see `Books.open` and `Books.recall`."""
    return Books.open(source, model, tokenizer, asking=text).recall(text, top)


def _is_memory_file(path: Source) -> bool:
    if str(path) == "-":
        return False
    there = is_url(path) or Path(path).expanduser().is_file()
    return there and is_kind(path, "memory file")


def _opened(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A model and its tokenizer. ValueError where there is none."""
    from hmt.systems import load_config, load_model, load_tokenizer

    if isinstance(model, (str, os.PathLike)):
        load_config(model)
        name, model = model, load_model(model)
    else:
        name = model.config.name_or_path
    if tokenizer is None:
        tokenizer = load_tokenizer(name, model.config.base_model_name_or_path)
    return model, tokenizer
