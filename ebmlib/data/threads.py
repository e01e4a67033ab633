"""Apply a function to many items by a few threads, in order (used to read files)."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
READ_AHEAD = 8  # items that may be finished or in work before the caller asks for them


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """`function(item)` for every item, in the order of the items.

    At most `THREADS` calls run at once, at most `READ_AHEAD` items ahead of the one
    that was yielded last. An exception is raised when its item is due. Leaving the loop
    early cancels what has not begun.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > READ_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
