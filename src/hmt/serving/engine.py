"""The engine: one thread that runs the model for everybody, in steps that many sessions share.

    engine = Engine(model, tokenizer)
    memory = engine.close(engine.read(None, ids))       # in any thread; each call waits for its own result
    engine.generate(asked, header, Options(), on_token=print)
    engine.shutdown()

It is a `Runner` of sessions. A step is a token of all answers that are being written, or some segments of all
texts that are being read; between two steps new work joins and what has ended, or what nobody waits for any
more, leaves. A memory is an argument and a result, never kept: nothing of one call is seen by another.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from hmt import backbone as bb
from hmt.serving import answering, reading
from hmt.serving.jobs import Answering, Busy, Closed, Job, Looking, Reading
from hmt.serving.sampling import Sampler, end_tokens

if TYPE_CHECKING:
    from hmt.memory.memory import Memory
    from hmt.model.recalling import Passage
    from hmt.sessions.runner import OnToken, Options, Progress

logger = logging.getLogger(__name__)


class Engine:
    """Runs a model with memory for any number of threads.

    Args:
        model: with memory; the engine's own from now on. tokenizer: None takes that of its folder.
        answers: how many are written side by side; the others wait.
        segments: how many are read in one step while no answer is being written.
        interleaved: and how many while one is, so that its next token waits for no more than these.
        waiting: jobs that may wait or be worked on; more are refused with `Busy`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        answers: int = 16,
        segments: int = 8,
        interleaved: int = 1,
        waiting: int = 256,
    ):
        if min(answers, segments, interleaved, waiting) < 1:
            raise ValueError("answers, segments, interleaved and waiting must be at least 1")
        if tokenizer is None:
            tokenizer = bb.tokenizer_of(model)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.answers, self.segments, self.interleaved, self.waiting = answers, segments, interleaved, waiting
        self._ends = end_tokens(model)
        self._change = threading.Condition()
        self._new: deque[Job] = deque()
        self._number = 0  # of jobs that have not ended
        self._closing = self._closed = False
        self._readings: list[Reading] = []
        self._asked: deque[Answering] = deque()
        self._batches: list[answering.Batch] = []
        self._thread = threading.Thread(target=self._run, name="hmt engine", daemon=True)
        self._thread.start()

    # -- what sessions ask ----------------------------------------------------------------------------------

    def read(self, memory: Memory | None, ids: Sequence[int], progress: Progress | None = None) -> Memory:
        """The memory after more tokens; None: of a new stream.

        progress: called as progress(tokens done), in the thread that waits; what it raises ends the reading.
        ValueError for ids that are none of the model; `Busy`; `Closed`.
        """
        return self._read(reading.begin(self.model, memory, ids, ending=False), progress)

    def close(self, memory: Memory) -> Memory:
        """The memory with its open segment closed (`StreamingLM.flush`)."""
        if not self.model.closes_early:
            return self.model.flush(memory)  # which says why not
        return self._read(reading.begin(self.model, memory, [], ending=True), None)

    def _read(self, job: Reading, progress: Progress | None) -> Memory:
        if not job.left(self.model.segment_length):
            memory = reading.result(self.model, job)
        else:
            memory = self._submit(job).wait(progress)
        if progress is not None and len(job.ids) > job.before:
            progress(len(job.ids) - job.before)
        return memory

    def recalled(self, memory: Memory, top: int) -> list[Passage]:
        """What is recalled now, by weight, at most `top` (`StreamingLM.recalled`)."""
        return self.call(lambda: self.model.recalled(memory, top)[0])

    def generate(
        self, memory: Memory, header_ids: Sequence[int], options: Options, on_token: OnToken | None = None
    ) -> list[int]:
        """The tokens written behind `header_ids`, a token that ends the answer included.

        on_token: called with each token, in the thread that waits; True ends the answer there, and what it
        raises ends it, too. `Busy`; `Closed`.
        """
        written: list[int] = []
        with closing(self.start(memory, header_ids, options).news()) as news:
            for token in news:
                written.append(token)
                if on_token is not None and on_token(token):
                    break  # some more may have been written meanwhile, by nobody's wish
        return written

    def start(self, memory: Memory, header_ids: Sequence[int], options: Options) -> Answering:
        """The job of an answer: its `news()` are the tokens, and `sampler.ended` then says why it ended."""
        header = torch.as_tensor(header_ids, dtype=torch.long, device=self.model.input_device).reshape(1, -1)
        if not header.shape[1]:
            raise ValueError("an answer is written behind at least one token")
        memory = self.model.memory_for(memory, 1)
        sampler = Sampler(options, self.tokenizer, self._ends)
        job = Answering(memory=memory, header=header, sampler=sampler)
        return self._submit(job)  # type: ignore[return-value]

    def call(self, work: Any) -> Any:
        """What `work()` returns, called between two steps: for what needs the model and is short."""
        return self._submit(Looking(work=work)).wait()

    # -- load -----------------------------------------------------------------------------------------------

    @property
    def load(self) -> dict[str, int]:
        """How much is being worked on: answers, readings, and all that has not ended."""
        answers = sum(len(batch.jobs) for batch in list(self._batches))
        return {"answers": answers, "readings": len(self._readings), "jobs": self._number}

    def shutdown(self, finish: bool = True, timeout: float | None = None) -> bool:
        """Take nothing new; finish what is there, or end it with `Closed`. Whether all has ended in time."""
        with self._change:
            self._closing = True
            self._closed = self._closed or not finish
            self._change.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread -----------------------------------------------------------------------------------------

    def _submit(self, job: Job) -> Job:
        with self._change:
            if self._closing:
                raise Closed("the engine is shutting down and takes nothing new")
            if self._number >= self.waiting:
                raise Busy(f"{self._number} requests are being worked on or wait, which is the most")
            self._number += 1
            self._new.append(job)
            self._change.notify()
        return job

    def _finish(self, job: Job, result: Any = None, error: BaseException | None = None) -> None:
        with self._change:
            self._number -= 1
        job.finish(result, error)

    def _run(self) -> None:
        try:
            with torch.no_grad(), bb.evaluating(self.model):
                while self._turn():
                    pass
        except BaseException as error:  # a fault of the engine itself: nobody may wait for ever
            logger.exception("the engine has stopped")
            with self._change:
                self._closing = self._closed = True
            self._end_all(Closed(f"the engine has stopped: {error}"))
            raise
        self._end_all(Closed("the engine was shut down before this had ended"))

    def _turn(self) -> bool:
        """What is new, one step of answers, one of reading. False when there is nothing left to do."""
        with self._change:
            while not (self._new or self._readings or self._asked or self._batches):
                if self._closing:
                    return False
                self._change.wait()
            if self._closed:
                return False
            new = list(self._new)
            self._new.clear()
        for job in new:
            self._take(job)
        self._write()
        self._read_on()
        return True

    def _take(self, job: Job) -> None:
        if isinstance(job, Reading):
            self._readings.append(job)
        elif isinstance(job, Answering):
            self._asked.append(job)
        elif job.cancelled:
            self._finish(job)
        else:
            assert isinstance(job, Looking)
            try:
                self._finish(job, job.work())
            except Exception as error:
                self._finish(job, error=error)

    def _write(self) -> None:
        """One token of every answer, and the first of one that waits."""
        batches = []
        for batch in self._batches:
            try:
                batch.step(self.model)
                batches.append(batch)
            except Exception as error:
                if len(batch.jobs) > 1:  # whose fault it was shows when each is run by itself
                    batches += batch.alone()
                else:
                    self._finish(batch.jobs[0], error=error)
        self._batches = batches
        while self._asked and self._asked[0].cancelled:
            self._finish(self._asked.popleft())
        if self._asked and sum(len(batch.jobs) for batch in batches) < self.answers:
            job = self._asked.popleft()
            try:
                new = answering.Batch.begin(self.model, job)
                self._batches = answering.join(self.model, batches, new, self.answers)
            except Exception as error:
                self._finish(job, error=error)
        for batch in self._batches:
            for job in batch.leave():
                self._finish(job)
        self._batches = [batch for batch in self._batches if batch.jobs]

    def _read_on(self) -> None:
        """Some segments of every text."""
        for job in [job for job in self._readings if job.cancelled]:
            self._readings.remove(job)
            self._finish(job)
        if not self._readings:
            return
        length = self.model.segment_length
        most = self.interleaved if self._batches or self._asked else self.segments
        shares = reading.share(self._readings, length, most)
        try:
            reading.step(self.model, shares)
        except Exception as error:
            if len(shares) == 1:
                self._readings.remove(shares[0][0])
                self._finish(shares[0][0], error=error)
                return
            for job, number in shares:  # whose fault it was shows when each is run by itself
                try:
                    reading.step(self.model, [(job, number)])
                except Exception as own:
                    self._readings.remove(job)
                    self._finish(job, error=own)
        for job, _ in shares:
            if job not in self._readings:
                continue
            # who was served goes to the end: next time others are first
            self._readings.remove(job)
            if job.left(length):
                self._readings.append(job)
                job.tell(max(0, job.done - job.before))
            else:
                self._finish(job, reading.result(self.model, job))

    def _end_all(self, error: BaseException) -> None:
        with self._change:
            jobs = [*self._new, *self._readings, *self._asked, *(j for b in self._batches for j in b.jobs)]
            self._new.clear()
        self._readings, self._batches = [], []
        self._asked.clear()
        for job in jobs:
            self._finish(job, error=error)
