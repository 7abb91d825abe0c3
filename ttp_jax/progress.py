"""Progress bars on standard error: silent where that is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bar(description: str, total: int | None) -> Iterator:
    """A bar of ``total`` units; yields ``advance(units=1)``.

    Args:
        description: What is going on, in a few words.
        total: Units until done; ``None`` for work that cannot tell.
    """
    if not sys.stderr.isatty():
        yield lambda units=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda units=1: progress.advance(task, units)
