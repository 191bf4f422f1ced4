"""The committer: finished tasks are encoded and written while the next ones are made."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from layer_atlas.sweep.tasks.heartbeat import Heartbeat

logger = logging.getLogger(__name__)


class Committer:
    """Commits finished tasks, in order, while the next ones are made.

    Leaving its context writes all that was handed over, however the work ended: what is made is
    lost to nothing less than a kill.
    """

    WAITING = 2
    """Batches handed over and not yet written; more would take memory and win no time."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._waiting: deque[tuple[list[str], Future[None]]] = deque()

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self._settle(0)

    def submit(self, keys: Sequence[str], write: Callable[[], None]) -> None:
        """Hand over finished tasks, then wait while too many are unwritten.

        Args:
            keys: of the tasks.
            write: encodes and commits them.
        Raises: what earlier ones met.
        """
        self._waiting.append((list(keys), self._thread.submit(write)))
        self.heartbeat.tick(tasks=[], unwritten=[key for keys, _ in self._waiting for key in keys])
        self._settle(self.WAITING)

    def _settle(self, most: int) -> None:
        """Forget what is written; wait until at most so many are not. Raises their error."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            keys, written = self._waiting[0]
            error = written.exception()
            if error is not None:
                self.heartbeat.tick(tasks=keys)  # charged for it, rather than those in the making
                raise error
            self._waiting.popleft()
            logger.debug("committed %d tasks, the first is %s", len(keys), keys[0][:8])
