"""Makes the next values in a thread while the last are being used."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(values: Iterator[T], count: int = 8) -> Generator[T]:
    """The same values in the same order, at most `count` made before they are asked for.

    An error among them is raised in its place. The thread ends with the values, or when the iterator is closed.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(count)
    stopped = threading.Event()

    def put(more: bool, value: T | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put((more, value), timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for value in values:
                put(True, value)
                if stopped.is_set():
                    return
            put(False, None)
        except BaseException as error:  # raised again where the values are used
            put(False, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            more, value = ready.get()
            if not more:
                if isinstance(value, BaseException):
                    raise value
                return
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
