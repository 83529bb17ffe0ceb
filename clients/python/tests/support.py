"""What the tests share.

PGHOST and so on say where the server is, which has the extension and is a throwaway one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, os.environ.get("RATELIMIT_PACKAGE") or str(Path(__file__).resolve().parent.parent))

AMPLE = 30.0  # seconds that a slow machine does not need
HOST = os.environ.get("PGHOST", "/var/run/postgresql")
USER = os.environ.get("PGUSER", "postgres")
DATABASE = os.environ.get("PGDATABASE", "postgres")

_numbers = itertools.count()


class AsyncTestCase(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        # what unittest switches on makes an event loop many times slower
        asyncio.get_running_loop().set_debug(False)


def fresh(name: str) -> str:
    """A name that no other test uses."""
    return f"{name} {os.getpid()} {next(_numbers)}"


def has(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


def needs(*names: str) -> Any:
    missing = [name for name in names if not has(name)]
    return unittest.skipIf(missing, f"{', '.join(missing)} not installed")


def conninfo(host: str = HOST, user: str = USER, options: str = "") -> str:
    return f"host={host} user={user} dbname={DATABASE} connect_timeout=30 options='{options}'"


def sql(query: str, *params: Any) -> Any:
    """The first row of a query, by a connection of its own."""
    import psycopg

    with psycopg.connect(conninfo(), autocommit=True) as conn:
        cursor = conn.execute(query, params)
        return cursor.fetchone() if cursor.description else None


@contextlib.contextmanager
def new_pool(host: str = HOST, max_size: int = 10, **others: Any) -> Any:
    from psycopg_pool import ConnectionPool

    with ConnectionPool(conninfo(host, **others), min_size=1, max_size=max_size, reconnect_timeout=1) as pool:
        yield pool


async def psycopg_pool(stack: contextlib.AsyncExitStack, host: str = HOST, max_size: int = 10, **others: Any) -> Any:
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(conninfo(host, **others), min_size=1, max_size=max_size, open=False, reconnect_timeout=1)
    await pool.open()
    stack.push_async_callback(pool.close, 1.0)
    return pool


async def psycopg_connection(stack: contextlib.AsyncExitStack, host: str = HOST, **others: Any) -> Any:
    import psycopg

    return await stack.enter_async_context(await psycopg.AsyncConnection.connect(conninfo(host, **others)))


async def psycopg_function(stack: contextlib.AsyncExitStack, host: str = HOST) -> Any:
    pool = await psycopg_pool(stack, host)
    return lambda: pool.connection(timeout=AMPLE)


async def asyncpg_pool(stack: contextlib.AsyncExitStack, host: str = HOST, max_size: int = 10) -> Any:
    import asyncpg

    pool = await asyncpg.create_pool(host=host, user=USER, database=DATABASE, min_size=1, max_size=max_size, timeout=AMPLE)
    stack.callback(pool.terminate)
    return pool


async def asyncpg_connection(stack: contextlib.AsyncExitStack, host: str = HOST) -> Any:
    import asyncpg

    conn = await asyncpg.connect(host=host, user=USER, database=DATABASE)
    stack.callback(conn.terminate)
    return conn


POOLS = [make for make, name in ((psycopg_pool, "psycopg_pool"), (asyncpg_pool, "asyncpg")) if has(name)]
ASYNC = [
    make
    for make, name in (
        (psycopg_pool, "psycopg_pool"),
        (psycopg_connection, "psycopg"),
        (psycopg_function, "psycopg_pool"),
        (asyncpg_pool, "asyncpg"),
        (asyncpg_connection, "asyncpg"),
    )
    if has(name)
]


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


async def async_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port that is free. Connections do not get it by chance meanwhile: theirs have other numbers."""
    while True:
        port = random.randrange(10000, 30000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Patience:
    """How long a limiter waits in a scenario, and what it tells the hook.

    A machine may stall for longer than the timeout while the database is there.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.there = True  # the scenario says whether the database is
        self.stalled = False
        self.events: list[tuple[str, str]] = []

    def hook(self, name: str) -> Callable[..., None]:
        def metrics(event: str, **details: Any) -> None:
            self.events.append((name, event))
            if self.there and event == "away":
                self.stalled = True

        return metrics


TIMEOUTS = (1.0, 5.0, AMPLE)


def patiently(scenario: Callable[[Patience], None]) -> None:
    """Run a scenario, and again with more time as long as the machine has stalled."""
    for timeout in TIMEOUTS:
        patience = Patience(timeout)
        try:
            return scenario(patience)
        except Exception:
            if not patience.stalled or timeout == AMPLE:
                raise


async def async_patiently(scenario: Callable[[Patience], Any]) -> None:
    for timeout in TIMEOUTS:
        patience = Patience(timeout)
        try:
            await scenario(patience)
            return
        except Exception:
            if not patience.stalled or timeout == AMPLE:
                raise


class Proxy:
    """A way to the server that can be cut: stop() ends all connections and refuses new ones,
    hang() leaves them without an answer, start() lets them through again. It listens on a
    socket in the folder "host", or on a port of 127.0.0.1 for those who need one."""

    def __init__(self, tcp: bool = False) -> None:
        self.tcp = tcp
        self.host = "127.0.0.1" if tcp else tempfile.mkdtemp(prefix="ratelimit")
        self.port = 0 if tcp else 5432
        self.path = f"{self.host}/.s.PGSQL.5432"
        self.passes = threading.Event()
        self.sockets: set[socket.socket] = set()
        self.server: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self.passes.set()
        if self.server is None:
            if self.tcp:
                self.server = socket.create_server((self.host, self.port), backlog=50)
                self.port = self.server.getsockname()[1]
            else:
                self.server = socket.socket(socket.AF_UNIX)
                self.server.bind(self.path)
                self.server.listen(50)
            threading.Thread(target=self.accept, args=(self.server,), daemon=True).start()

    def accept(self, server: socket.socket) -> None:
        while True:
            try:
                down, _ = server.accept()
            except OSError:
                return
            up = socket.socket(socket.AF_UNIX)
            up.connect(f"{HOST}/.s.PGSQL.{os.environ.get('PGPORT', 5432)}")
            self.sockets |= {down, up}
            if self.server is not server:
                # it has been stopped meanwhile
                self.cut(down)
                self.cut(up)
                return
            for one, other in ((down, up), (up, down)):
                threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self.passes.wait()
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            self.cut(end)

    def cut(self, end: socket.socket) -> None:
        self.sockets.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def hang(self) -> None:
        self.passes.clear()

    def stop(self) -> None:
        if self.server is not None:
            with contextlib.suppress(OSError):
                self.server.shutdown(socket.SHUT_RDWR)
            self.server.close()
            self.server = None
            if not self.tcp:
                os.unlink(self.path)
        for end in list(self.sockets):
            self.cut(end)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()
        self.passes.set()
        if not self.tcp:
            shutil.rmtree(self.host)
