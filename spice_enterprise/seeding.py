"""One seed, many independent streams.

In: the run's seed and a path of names and numbers.
Out: a 63-bit seed that depends on nothing else.
Refuses: nothing.
Not here: global random state. Nobody calls `random.seed`; every draw names its own path.
"""

import hashlib
import random


def derive(seed: int, *path: str | int) -> int:
    """Return the seed of the stream `path`, the same on every machine and in every order of calls."""
    text = "/".join([str(seed), *(str(part) for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *path: str | int) -> random.Random:
    """Return a private generator for the stream `path`."""
    return random.Random(derive(seed, *path))  # noqa: S311 - reproducibility, not secrecy
