"""Drivers: one way to run a statement, whatever runs it.

driver_for(db) and async_driver_for(db) give an object with

    query(statement, values, seconds)
        the rows. It raises TimeoutError after so many seconds: what was asked for may
        have happened all the same.
    most
        how many queries it can have under way

Values are str, int, float, and lists of str. Rows have str, bool, float, int and None.

With psycopg, a statement is sent with libpq directly. psycopg itself would begin a
transaction before it and leave that open, which are two round trips more, and it would wait
for as long as a server does not answer. A connection that has not answered in time is
closed, and so a pool has room for another one.

Statements are prepared as long as they are found where they have been prepared. Behind a
pooler they may not be, as a query may go to another connection than the one before.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, AsyncIterator, Awaitable, Callable, Generator, Iterator, Optional, Protocol, Sequence
from weakref import WeakKeyDictionary

from ._statements import Row, Statement

LATE = "no answer from the database in time"

# SQLSTATEs: a prepared statement is not on the connection, or already is. Nothing has been executed then.
NOT_PREPARED = ("26000", "42P05")

PARSERS: dict[int, Callable[[bytes], Any]] = {
    16: lambda value: value == b"t",  # boolean
    20: int,  # bigint
    701: float,  # double precision
}


class Driver(Protocol):
    most: int

    def query(self, statement: Statement, values: Sequence[Any], seconds: float) -> list[Row]:
        ...


class AsyncDriver(Protocol):
    most: int

    async def query(self, statement: Statement, values: Sequence[Any], seconds: float) -> list[Row]:
        ...

    async def close(self) -> None:
        ...


def _is_a(value: object, package: str, name: str) -> bool:
    """Is it an instance of a class of a package, which may not be installed?"""
    return any(t.__name__ == name and t.__module__.split(".")[0] == package for t in type(value).__mro__)


class Preparing:
    """Are statements prepared? True, until one is not where it has been prepared.

    A pooler has then sent the query to another connection, or somebody has discarded the
    statement, and either will happen again. None: it is not yet known.
    """

    def __init__(self, on: Optional[bool]) -> None:
        self.on = on


# libpq -------------------------------------------------------------------------------------


def _text(value: Any, encoding: str) -> bytes:
    """A value as PostgreSQL reads it."""
    if isinstance(value, str):
        return value.encode(encoding)
    if isinstance(value, list):
        items = [f'"{item}"' if '"' not in item and "\\" not in item else _quoted(item) for item in value]
        return f"{{{','.join(items)}}}".encode(encoding)
    return repr(value).encode()


def _quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _answer(pgconn: Any) -> Generator[int, None, Any]:
    """Wait for the answer to what has been sent: yields what to wait for."""
    while pgconn.flush():
        yield selectors.EVENT_READ | selectors.EVENT_WRITE
        pgconn.consume_input()
    answer = None
    while True:
        while pgconn.is_busy():
            yield selectors.EVENT_READ
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return answer
        answer = result


# of each connection, the names of statements that are prepared
_prepared: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def _run(
    conn: Any, statement: Statement, values: Sequence[Any], preparing: Preparing
) -> Generator[int, None, list[Row]]:
    from psycopg import OperationalError, errors
    from psycopg.pq import ExecStatus, TransactionStatus

    if conn.closed:
        raise OperationalError("the connection is closed")
    pgconn = conn.pgconn
    encoding = conn.info.encoding
    if encoding == "ascii":
        encoding = "utf-8"
    text = statement.text.encode(encoding)
    name = statement.name.encode()
    params = [_text(value, encoding) for value in values]
    names = _prepared.setdefault(conn, set())
    idle = pgconn.transaction_status == TransactionStatus.IDLE

    while True:
        # a statement has a name that no other text has, so nobody else's is taken for it
        prepare = preparing.on is not False
        if not prepare:
            pgconn.send_query_params(text, params)
        elif statement.name in names:
            pgconn.send_query_prepared(name, params)
        else:
            pgconn.send_prepare(name, text)
        result = yield from _answer(pgconn)
        if result is None:
            raise OperationalError("the connection is lost")
        if result.status == ExecStatus.TUPLES_OK:
            break
        if result.status == ExecStatus.COMMAND_OK and prepare and statement.name not in names:
            names.add(statement.name)
            continue
        error = errors.error_from_result(result, encoding=encoding)
        if prepare and error.sqlstate in NOT_PREPARED:
            preparing.on = False
            if idle:
                continue
        raise error

    parsers = [PARSERS.get(result.ftype(j)) for j in range(result.nfields)]

    def value(i: int, j: int) -> Any:
        raw = result.get_value(i, j)
        if raw is None:
            return None
        parser = parsers[j]
        return raw.decode(encoding) if parser is None else parser(raw)

    return [tuple(value(i, j) for j in range(result.nfields)) for i in range(result.ntuples)]


# psycopg ------------------------------------------------------------------------------------


class PsycopgDriver:
    def __init__(
        self, connect: Callable[[float], AbstractContextManager[Any]], most: int, preparing: Preparing
    ) -> None:
        self.connect = connect
        self.most = most
        self.preparing = preparing

    def query(self, statement: Statement, values: Sequence[Any], seconds: float) -> list[Row]:
        deadline = time.monotonic() + seconds
        with self.connect(seconds) as conn:
            if not conn.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise TimeoutError(LATE)
            try:
                return _wait(conn, _run(conn, statement, values, self.preparing), deadline)
            finally:
                conn.lock.release()


def _wait(conn: Any, run: Generator[int, None, list[Row]], deadline: float) -> list[Row]:
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        try:
            events = next(run)
            selector.register(conn.pgconn.socket, events)
            while True:
                if not selector.select(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise TimeoutError(LATE)
                was, events = events, next(run)
                if events != was:
                    selector.modify(conn.pgconn.socket, events)
        except StopIteration as stop:
            rows: list[Row] = stop.value
            return rows
        except BaseException as error:
            # the server's own errors leave the connection as it was
            if getattr(error, "sqlstate", None) is None and not isinstance(error, ValueError):
                conn.close()
            raise


@contextmanager
def _own(db: Any) -> Iterator[Any]:
    yield db


@contextmanager
def _from_pool(pool: Any, seconds: float) -> Iterator[Any]:
    conn = pool.getconn(seconds)
    try:
        yield conn
    finally:
        pool.putconn(conn)


def driver_for(db: Any, prepare: Optional[bool] = None) -> Driver:
    preparing = Preparing(prepare)
    if _is_a(db, "psycopg", "Connection"):
        return PsycopgDriver(lambda seconds: _own(db), 1, preparing)
    if _is_a(db, "psycopg_pool", "ConnectionPool"):
        return PsycopgDriver(lambda seconds: _from_pool(db, seconds), db.max_size, preparing)
    if callable(db):
        connect: Callable[[], AbstractContextManager[Any]] = db
        return PsycopgDriver(lambda seconds: connect(), 10, preparing)
    raise TypeError(
        "db must be a Connection or a ConnectionPool of psycopg, or a function that returns a context manager of a"
        f" Connection, not {type(db).__name__}"
    )


# asyncio ------------------------------------------------------------------------------------


class AsyncioDriver:
    """Runs statements on what "connect" gives: connections of psycopg or of asyncpg."""

    def __init__(
        self, connect: Callable[[float], AbstractAsyncContextManager[Any]], most: int, preparing: Preparing
    ) -> None:
        self.connect = connect
        self.most = most
        self.preparing = preparing

    async def query(self, statement: Statement, values: Sequence[Any], seconds: float) -> list[Row]:
        began = time.monotonic()
        async with self.connect(seconds) as conn:
            run = _run_psycopg if _is_a(conn, "psycopg", "AsyncConnection") else _run_asyncpg
            try:
                async with asyncio.timeout(max(0.0, seconds - (time.monotonic() - began))):
                    return await run(conn, statement, values, self.preparing)
            except TimeoutError:
                raise TimeoutError(LATE) from None

    async def close(self) -> None:
        pass


async def _run_psycopg(conn: Any, statement: Statement, values: Sequence[Any], preparing: Preparing) -> list[Row]:
    async with conn.lock:
        run = _run(conn, statement, values, preparing)
        try:
            events = next(run)
            while True:
                await _ready(conn.pgconn.socket, events)
                events = next(run)
        except StopIteration as stop:
            rows: list[Row] = stop.value
            return rows
        except BaseException as error:
            if getattr(error, "sqlstate", None) is None and not isinstance(error, ValueError):
                await conn.close()
            raise


async def _ready(fd: int, events: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def now() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, now)
    if events & selectors.EVENT_WRITE:
        loop.add_writer(fd, now)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
        if events & selectors.EVENT_WRITE:
            loop.remove_writer(fd)


# The shortest text that asyncpg does not prepare, unless its connections say otherwise.
UNPREPARED = 15 * 1024 + 1


async def _run_asyncpg(conn: Any, statement: Statement, values: Sequence[Any], preparing: Preparing) -> list[Row]:
    try:
        if preparing.on is None:
            preparing.on = await _is_direct(conn)
        if preparing.on:
            try:
                return await _fetch(conn, statement.text, values)
            except Exception as error:
                if getattr(error, "sqlstate", None) not in NOT_PREPARED:
                    raise
                preparing.on = False
                if conn.is_in_transaction():
                    raise
        return await _fetch(conn, statement.text.ljust(UNPREPARED), values)
    except asyncio.CancelledError:
        # it would wait for the server to say that the query is cancelled
        conn.terminate()
        raise


async def _fetch(conn: Any, text: str, values: Sequence[Any]) -> list[Row]:
    return [tuple(record) for record in await conn.fetch(text, *values)]


async def _is_direct(conn: Any) -> bool:
    """Is the server at the other end, and not a pooler?

    asyncpg numbers its statements. Behind a pooler, one of another process may have the same
    number, and the server would run that one.
    """
    [(pid,)] = await _fetch(conn, "SELECT pg_catalog.pg_backend_pid()".ljust(UNPREPARED), [])
    return bool(pid == conn.get_server_pid())


RESET = 5.0  # seconds that a connection may take to be reset
HELD = 0.05  # seconds that others wait for a connection at most
UNUSED = 0.01  # seconds until one goes back that is not used


class PoolDriver(AsyncioDriver):
    """Keeps a connection of a pool for a moment, for the next query.

    To take one out of the pool and to give it back takes this process as long as a query does, and
    asyncpg resets it each time. Nobody waits until it is back.
    """

    def __init__(
        self,
        take: Callable[[float], Awaitable[Any]],
        give_back: Callable[[Any], Awaitable[None]],
        most: int,
        preparing: Preparing,
    ) -> None:
        super().__init__(self.connection, most, preparing)
        self.take = take
        self.give_back = give_back
        self.kept: list[tuple[Any, float, float]] = []  # until when, and since when it is not used
        self.looking: Optional[asyncio.TimerHandle] = None
        self.tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connection(self, seconds: float) -> AsyncIterator[Any]:
        if self.kept:
            conn, until, _ = self.kept.pop()
        else:
            conn = await self.take(seconds)
            until = time.monotonic() + HELD
        try:
            yield conn
        except BaseException:
            self.release(conn)
            raise
        now = time.monotonic()
        if now >= until:
            self.release(conn)
        else:
            self.kept.append((conn, until, now))
            if self.looking is None:
                self.looking = asyncio.get_running_loop().call_later(UNUSED, self.look)

    def look(self) -> None:
        now = time.monotonic()
        kept, self.kept = self.kept, []
        for conn, until, since in kept:
            if now >= until or now - since >= UNUSED:
                self.release(conn)
            else:
                self.kept.append((conn, until, since))
        self.looking = asyncio.get_running_loop().call_later(UNUSED, self.look) if self.kept else None

    def release(self, conn: Any) -> None:
        task = asyncio.create_task(self.released(conn))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def released(self, conn: Any) -> None:
        try:
            await self.give_back(conn)
        except Exception:
            # the pool has closed it
            pass

    async def close(self) -> None:
        if self.looking is not None:
            self.looking.cancel()
            self.looking = None
        while self.kept:
            self.release(self.kept.pop()[0])
        await asyncio.gather(*self.tasks)


@asynccontextmanager
async def _async_own(db: Any, lock: Optional[asyncio.Lock]) -> AsyncIterator[Any]:
    if lock is None:
        yield db
    else:
        # a connection of asyncpg refuses a query while it runs another one
        async with lock:
            yield db


def async_driver_for(db: Any, prepare: Optional[bool] = None) -> AsyncDriver:
    preparing = Preparing(prepare)
    if _is_a(db, "psycopg", "AsyncConnection"):
        return AsyncioDriver(lambda seconds: _async_own(db, None), 1, preparing)
    if _is_a(db, "psycopg_pool", "AsyncConnectionPool"):
        return PoolDriver(db.getconn, db.putconn, db.max_size, preparing)
    if _is_a(db, "asyncpg", "Pool"):

        async def take(seconds: float) -> Any:
            return await db.acquire(timeout=seconds)

        async def give_back(conn: Any) -> None:
            await db.release(conn, timeout=RESET)

        return PoolDriver(take, give_back, db.get_max_size(), preparing)
    if _is_a(db, "asyncpg", "Connection"):
        lock = asyncio.Lock()
        return AsyncioDriver(lambda seconds: _async_own(db, lock), 1, preparing)
    if callable(db):
        connect: Callable[[], AbstractAsyncContextManager[Any]] = db
        return AsyncioDriver(lambda seconds: connect(), 10, preparing)
    raise TypeError(
        "db must be an AsyncConnection or AsyncConnectionPool of psycopg, a Connection or Pool of asyncpg, or a"
        f" function that returns an asynchronous context manager of a connection, not {type(db).__name__}"
    )
