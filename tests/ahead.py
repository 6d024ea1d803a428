"""Work that mostly waits, begun a few tests ahead in threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

AT_ONCE = 4


@contextmanager
def ahead(function: Callable, names: Sequence) -> Iterator[Callable]:
    """Gives `result(name)`: what `function(name)` gives, which has begun together with the next names.

    Names that no test of this process asks for are at most a few: pytest-xdist's workers share the tests of a file."""
    begun: dict[object, Future] = {}

    def result(name):
        start = names.index(name)
        for each in names[start : start + AT_ONCE]:
            if each not in begun:
                begun[each] = pool.submit(function, each)
        return begun[name].result(60)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield result
