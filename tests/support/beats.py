"""A group of workers that trains a run elsewhere, as far as its sign of life shows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from distributed.alone import SignOfLife


@contextmanager
def trained_elsewhere(life: SignOfLife) -> Iterator[None]:
    """Within, somebody gives signs of life ten times a second; after it they are dead."""
    over = threading.Event()
    life.beat()

    def beat() -> None:
        while not over.wait(0.1):
            life.beat()

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
