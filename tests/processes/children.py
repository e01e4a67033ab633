"""Processes of their own for tests, at the price of one interpreter.

On Linux a child is forked from a server that has imported the library and done nothing
else. So it starts within milliseconds, and nothing of the test is in it except the
arguments it gets. Elsewhere every child is a new interpreter.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from typing import Any

# Adam imports torch._dynamo at its first step: once in the server, not in each child.
IMPORTED = ["torch._dynamo", "ebmlib.benchmark", "ebmlib.training"]


def context() -> Any:
    """How children start; on Linux the server runs when this returns."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(IMPORTED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return made


def start(function: Callable, *arguments: Any, **options: Any) -> Any:
    """A process that runs the function of a module; `exitcode` tells how it ended."""
    process = context().Process(target=function, args=arguments, kwargs=options)
    process.start()
    return process


def ask(function: Callable, *arguments: Any) -> Any:
    """What the function of a module returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=context()) as pool:
        return pool.submit(function, *arguments).result()
