"""A plugin of pytest: the suites of limits and of Flask-Limiter, with the storages of clients/python as
those in memory. RATELIMIT_SUITE=own: with the package's own.

The server's clock is that of RATELIMIT_SEAM (test/seam/seam.c). For each call it is set to what the
test's clock says, so that the first call of a storage is at the beginning of a window, however long a
window is. Of each case a line goes to RATELIMIT_CASES: "ok", "failed" or "skipped", and its name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import struct
import sys
import time
import types
from typing import Any

import limits.aio.storage
import limits.storage
import pytest

BEGINNING = 18144000 * 100  # s, of windows of all lengths that the tests have
CLOCK_AT = 11 * 8  # in the file: microseconds

# what the suites import for other servers, and do not use without them
for name in (
    "etcd3",
    "pymemcache",
    "pymemcache.client",
    "pymongo",
    "redis",
    "redis.sentinel",
    "valkey",
    "pytest_lazy_fixtures",
):
    if name.split(".")[0] in sys.modules or not importlib.util.find_spec(name.split(".")[0]):
        sys.modules[name] = types.ModuleType(name)
sys.modules["pytest_lazy_fixtures"].lf = lambda fixture: fixture  # type: ignore[attr-defined]

_numbers = itertools.count()


class _Clock:
    """When the first call of a storage was, for the test and for the server."""

    seam = os.open(os.environ["RATELIMIT_SEAM"], os.O_RDWR)

    def __init__(self) -> None:
        self.ahead = 0.0

    def set(self) -> None:
        now = time.time()
        if not self.ahead:
            self.ahead = BEGINNING - now
        os.pwrite(self.seam, struct.pack("<q", round((now + self.ahead) * 1e6)), CLOCK_AT)


def _ours() -> None:
    import psycopg
    from psycopg import AsyncConnection
    from ratelimit_postgresql.limits import AsyncRateLimitStorage, RateLimitStorage

    conn = psycopg.connect("", autocommit=True)

    @contextlib.asynccontextmanager
    async def connect() -> Any:
        async with await AsyncConnection.connect("", autocommit=True) as conn:
            yield conn

    def options(wrap_exceptions: bool) -> dict[str, Any]:
        limiter = f"suite {os.getpid()} {next(_numbers)}"
        return {"limiter": limiter, "timeout": 30.0, "wrap_exceptions": wrap_exceptions}

    class MemoryStorage(RateLimitStorage):
        STORAGE_SCHEME = ["memory"]

        def __init__(self, uri: Any = None, wrap_exceptions: bool = False, **_: Any) -> None:
            super().__init__(uri, db=conn, **options(wrap_exceptions))
            self.clock = _Clock()

        def _count(self, key: str, seconds: int, n: float) -> tuple[float, float]:
            self.clock.set()
            hits, end = super()._count(key, seconds, n)
            return hits, end - self.clock.ahead

    class AsyncMemoryStorage(AsyncRateLimitStorage):
        STORAGE_SCHEME = ["async+memory"]

        def __init__(self, uri: Any = None, wrap_exceptions: bool = False, **_: Any) -> None:
            super().__init__(uri, db=connect, **options(wrap_exceptions))
            self.clock = _Clock()

        async def _count(self, key: str, seconds: int, n: float) -> tuple[float, float]:
            self.clock.set()
            hits, end = await super()._count(key, seconds, n)
            return hits, end - self.clock.ahead

    # cases print the name, in a table of some width
    for ours in (MemoryStorage, AsyncMemoryStorage):
        ours.__module__ = "limits.storage.memory"
        ours.__qualname__ = "MemoryStorage"
    limits.storage.MemoryStorage = MemoryStorage  # type: ignore[misc]
    limits.aio.storage.MemoryStorage = AsyncMemoryStorage  # type: ignore[misc]


if os.environ.get("RATELIMIT_SUITE") != "own":
    _ours()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only what needs no other server."""
    alone, others = [], []
    for item in items:
        (others if "docker_services" in getattr(item, "fixturenames", ()) else alone).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = alone


@pytest.fixture
def docker_services() -> None:
    """Only so that what asks for it is known."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed" and report.when == "setup":
        how = {"passed": "ok"}.get(report.outcome, report.outcome)
        message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "").split("\n")[0]
        with open(os.environ["RATELIMIT_CASES"], "a", encoding="utf-8") as file:
            file.write(f"{how}\t{report.nodeid}\t{message}\n")
