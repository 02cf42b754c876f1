"""Who computes: a few threads behind a queue that has an end, so that a crowd is told to come back and not stored."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from picoformer.serving.http import HttpError, json_bytes

RETRY_SECONDS = 1
"""What Retry-After says."""


@dataclass(frozen=True)
class Answer:
    """An answer in one piece, as JSON."""

    body: bytes


@dataclass(frozen=True)
class Begin:
    """A stream begins: pieces follow, each a value as JSON, and then None."""

    media_type: str


Event = Answer | Begin | HttpError | bytes | None
"""What a job tells its connection."""


@dataclass
class Job:
    """One request's work. `events` are for the event loop; the thread puts them by `tell`."""

    call: Callable[[Job], Any]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    is_over: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the rest: between two tokens the work looks here."""
    _has_begun: bool = False

    def tell(self, event: Event) -> None:
        """Hand an event from the thread to the loop."""
        _tell(self.loop, self.events.put_nowait, event)

    def piece(self, value: Any, media_type: str) -> None:
        """In a thread: a part of the answer; the first one says of what kind. The call then returns nothing."""
        data = _json(value)
        if not self._has_begun:
            self._has_begun = True
            self.tell(Begin(media_type))
        self.tell(data)

    def run(self) -> None:
        """In a thread: the call, its answer or its error told."""
        if self.is_over.is_set():
            return
        try:
            found = self.call(self)
            self.tell(None if self._has_begun else Answer(_json(found)))
        except HttpError as error:
            self.tell(error)
        except MemoryError:
            self.tell(HttpError(503, "out_of_memory", "this needs more memory than there is"))
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.tell(HttpError(500, "internal", f"a fault of this program ({what})"))


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *words: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has ended, and nobody listens
        loop.call_soon_threadsafe(call, *words)


def _json(value: Any) -> bytes:
    try:
        return json_bytes(value)
    except ValueError:
        raise HttpError(500, "not_finite", "the model computed a number that is not finite") from None


class Workers:
    """`count` threads and a queue of `waiting` places. All methods are for the event loop's thread."""

    def __init__(self, count: int, waiting: int) -> None:
        self._places = count + waiting
        self._taken = 0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for index in range(count):
            # Daemons: the process may end while one of them still computes what nobody waits for.
            threading.Thread(target=self._work, name=f"worker-{index}", daemon=True).start()

    @property
    def taken(self) -> int:
        """Requests that wait or are computed."""
        return self._taken

    @property
    def is_full(self) -> bool:
        """Whether a request would be refused now."""
        return self._taken >= self._places

    def submit(self, call: Callable[[Job], Any]) -> Job:
        """Queue a call; raises HttpError 503 where the queue has no place."""
        if self.is_full:
            raise busy("every place in the queue is taken")
        self._taken += 1
        job = Job(call, asyncio.get_running_loop())
        self._jobs.put(job)
        return job

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            job.run()
            _tell(job.loop, self._leave)

    def _leave(self) -> None:
        self._taken -= 1


def busy(why: str, close: bool = False) -> HttpError:
    """The answer to a request that there is no place for."""
    return HttpError(503, "busy", f"{why}; try again", close, {"Retry-After": str(RETRY_SECONDS)})
