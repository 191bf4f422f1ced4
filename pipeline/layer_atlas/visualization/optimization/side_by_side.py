"""Functions that stop in the middle to ask, side by side, so that all are answered at once.

For code of others that calls back: it cannot be stopped in the middle but in a thread of its own.
"""

from collections.abc import Callable, Sequence
from threading import Semaphore, Thread

Ask = Callable[[], None]
"""Returns once what is asked for has been answered."""


def side_by_side(functions: Sequence[Callable[[Ask], None]], answer: Callable[[], None]) -> None:
    """Run functions to their ends; each time all that still run have asked, answer.

    One runs at a time, in their order, so that nothing is left to chance.

    Args:
        functions: each is given what it asks by.
        answer: answers all who ask, in the thread of the caller.
    Raises: what a function or the answer raises; the other functions then end where they are.
    """
    runs = [_Run(function) for function in functions]
    try:
        asking = [run for run in runs if run.goes_on()]
        while asking:
            answer()
            asking = [run for run in asking if run.goes_on()]
    finally:
        for run in runs:
            run.end()


class _Run:
    """A function in a thread of its own, which runs only while the caller waits for it."""

    def __init__(self, function: Callable[[Ask], None]) -> None:
        self._function = function
        self._may_run, self._stopped = Semaphore(0), Semaphore(0)
        self._over = self._unwanted = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Let it run until it asks; False if it has come to its end instead."""
        self._may_run.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return not self._over

    def end(self) -> None:
        """Have it end where it is."""
        self._unwanted = True
        self._may_run.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._wait()
            self._function(self._ask)
        except _Unwanted:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._over = True
            self._stopped.release()

    def _ask(self) -> None:
        self._stopped.release()
        self._wait()

    def _wait(self) -> None:
        self._may_run.acquire()
        if self._unwanted:
            raise _Unwanted


class _Unwanted(BaseException):
    """Ends a function that is left in the middle."""
