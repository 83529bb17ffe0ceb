"""Storages of the package limits, and so of Flask-Limiter.

    limits.storage.storage_from_string("ratelimit://app@host/database")
    Limiter(get_remote_address, app=app, storage_uri="ratelimit://", storage_options={"db": pool})

A window is a period of the extension, and so the same for all keys: one of a minute begins
with each minute. Hits are counted by rl_count(). Only the strategy "fixed-window" works.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import OrderedDict
from hashlib import sha256
from threading import Lock
from typing import Any, Optional, Sequence

import limits.aio.storage
import limits.storage
from limits.limits import TIME_TYPES

from ._drivers import AsyncDriver, Driver, async_driver_for, driver_for
from ._gatherer import Gatherer
from ._rule import check_name, check_number
from ._statements import Call, Row, Statement, function_names, keys, seconds, tokens

MAX_WINDOWS = 100_000  # that are remembered, of keys that do not say theirs
ALL = -1e18  # hits: so many less, though not below 0

# The key of a RateLimitItem ends with its amount, multiples and granularity.
ITEM = re.compile(r"/\d+/(\d+)/(\w+)\Z")


class _Windows:
    """How long the window of each key is, in seconds."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.seconds: OrderedDict[str, int] = OrderedDict()

    def remember(self, key: str, seconds: int) -> None:
        if _of_item(key) == seconds:
            return
        with self.lock:
            self.seconds[key] = seconds
            self.seconds.move_to_end(key)
            if len(self.seconds) > MAX_WINDOWS:
                self.seconds.popitem(last=False)

    def of(self, key: str) -> Optional[int]:
        with self.lock:
            return self.seconds.get(key) or _of_item(key)


def _of_item(key: str) -> Optional[int]:
    match = ITEM.search(key)
    if match is None or match[2] not in TIME_TYPES:
        return None
    return int(match[1]) * TIME_TYPES[match[2]].seconds


def _key(key: str) -> str:
    """A key of the extension has 1 to 255 bytes."""
    encoded = key.encode("utf-8", "surrogatepass")
    if 0 < len(encoded) <= 255 and b"\0" not in encoded and encoded == key.encode("utf-8", "replace"):
        return key
    return "sha256:" + sha256(encoded).hexdigest()


def _check_incr(expiry: int, elastic_expiry: bool, amount: int) -> None:
    if elastic_expiry:
        raise NotImplementedError("no window of PostgreSQL is extended by a hit: use the strategy fixed-window")
    check_number("expiry", expiry)
    if expiry < 1:
        raise ValueError(f"expiry must be 1 second or more, not {expiry}")
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise TypeError(f"amount must be an int, not {type(amount).__name__}")


def _statement(schema: Optional[str]) -> Statement:
    if schema is not None:
        check_name("schema", schema, 63)
    count = function_names(schema)("rl_count")
    return Statement(
        f"""SELECT c.hits, extract(epoch FROM c.resets_at)::float8
            FROM unnest($1::text[], $2::text::float8[], $3::text::float8[]) AS k (key, seconds, n),
            LATERAL {count}(k.key, pg_catalog.format('%s seconds', k.seconds), k.n, $4) AS c"""
    )


def _values(calls: Sequence[Call], limiter: str) -> list[Any]:
    return [keys(calls), seconds(calls), tokens(calls), limiter]


def _conninfo(uri: str) -> str:
    """ratelimit://user@host/database is postgresql://user@host/database."""
    return "postgresql" + uri[uri.index("://") :]


class RateLimitStorage(limits.storage.Storage):
    """
    uri says where the server is, with what PGHOST and so on say by default, for a pool of its
    own; or db is a Connection or ConnectionPool of psycopg 3, or a function that returns a
    context manager of a Connection. Windows of two storages with the same limiter are the same.
    timeout is in seconds.
    """

    STORAGE_SCHEME = ["ratelimit"]

    def __init__(
        self,
        uri: Optional[str] = None,
        *,
        db: Any = None,
        limiter: str = "limits",
        schema: Optional[str] = None,
        timeout: float = 1.0,
        prepare: Optional[bool] = None,
        wrap_exceptions: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(uri, **_wrapping(wrap_exceptions))
        self._pool: Any = None
        if db is None:
            from psycopg_pool import ConnectionPool

            db = self._pool = ConnectionPool(
                _conninfo(uri or "ratelimit://"), min_size=1, max_size=10, open=False, **options
            )
        elif options:
            raise TypeError(f"{', '.join(options)} must not be given with db")
        #: What it works on, which Flask-Limiter's command "config" prints.
        self.storage = db
        self._driver: Driver = driver_for(db, prepare)
        self._limiter = check_name("limiter", limiter, 63)
        self._timeout = check_number("timeout", timeout)
        self._statement = _statement(schema)
        self._windows = _Windows()

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        import psycopg

        return (psycopg.Error, TimeoutError)

    def incr(self, key: str, expiry: int, elastic_expiry: bool = False, amount: int = 1) -> int:
        """Add to the hits of a key in the present window, of expiry seconds. Returns the hits."""
        _check_incr(expiry, elastic_expiry, amount)
        self._windows.remember(key, expiry)
        return _hits(self._count(key, expiry, amount)[0])

    def get(self, key: str) -> int:
        """The hits of a key in the present window."""
        seconds = self._windows.of(key)
        return 0 if seconds is None else _hits(self._count(key, seconds, 0)[0])

    def get_expiry(self, key: str) -> int:
        """When the present window of a key ends, in seconds since 1970; now, if it has no hits."""
        seconds = self._windows.of(key)
        hits, end = (0, 0.0) if seconds is None else self._count(key, seconds, 0)
        return int(end if hits > 0 else time.time())

    def check(self) -> bool:
        """Does the database count?"""
        try:
            self._query([])
        except Exception:
            return False
        return True

    def reset(self) -> Optional[int]:
        raise NotImplementedError("only the owner of the extension may reset all keys, with rl_reset_all()")

    def clear(self, key: str) -> None:
        """The key has no hits in the present window."""
        seconds = self._windows.of(key)
        if seconds is not None:
            self._count(key, seconds, ALL)

    def close(self) -> None:
        """Close the storage's own pool, if it has one."""
        if self._pool is not None and not self._pool.closed:
            self._pool.close()

    def _count(self, key: str, seconds: int, n: float) -> tuple[float, float]:
        hits, end = self._query([Call("count", _key(key), n, seconds)])[0]
        return hits, end

    def _query(self, calls: list[Call]) -> list[Row]:
        # not before: then a server that forks has no connection yet
        if self._pool is not None and self._pool.closed:
            self._pool.open()
        return self._driver.query(self._statement, _values(calls, self._limiter), self._timeout)


class AsyncRateLimitStorage(limits.aio.storage.Storage):
    """
    The same for limits.aio: counts of one turn of the event loop go into one query. db is what
    an AsyncRateLimiter takes. Without it, the storage makes a pool of psycopg's with the first
    call, and close() closes it.
    """

    STORAGE_SCHEME = ["async+ratelimit"]

    def __init__(
        self,
        uri: Optional[str] = None,
        *,
        db: Any = None,
        limiter: str = "limits",
        schema: Optional[str] = None,
        timeout: float = 1.0,
        prepare: Optional[bool] = None,
        wrap_exceptions: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(uri, **_wrapping(wrap_exceptions))
        self._pool: Any = None
        if db is None:
            from psycopg_pool import AsyncConnectionPool

            db = self._pool = AsyncConnectionPool(
                _conninfo(uri or "ratelimit://"), min_size=1, max_size=10, open=False, **options
            )
        elif options:
            raise TypeError(f"{', '.join(options)} must not be given with db")
        self.storage = db
        self._driver: AsyncDriver = async_driver_for(db, prepare)
        self._limiter = check_name("limiter", limiter, 63)
        self._timeout = check_number("timeout", timeout)
        self._statement = _statement(schema)
        self._windows = _Windows()
        self._gatherer = Gatherer(
            run=self._run,
            settle=_settle,
            fail=_fail,
            report=lambda calls, seconds, error: None,
            most=min(8, (self._driver.most + 1) // 2),
            max_calls=1000,
            timeout=self._timeout,
        )

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        # those of the driver, whichever it is
        return (Exception,)

    async def incr(self, key: str, expiry: int, elastic_expiry: bool = False, amount: int = 1) -> int:
        """Add to the hits of a key in the present window, of expiry seconds. Returns the hits."""
        _check_incr(expiry, elastic_expiry, amount)
        self._windows.remember(key, expiry)
        return _hits((await self._count(key, expiry, amount))[0])

    async def get(self, key: str) -> int:
        """The hits of a key in the present window."""
        seconds = self._windows.of(key)
        return 0 if seconds is None else _hits((await self._count(key, seconds, 0))[0])

    async def get_expiry(self, key: str) -> int:
        """When the present window of a key ends, in seconds since 1970; now, if it has no hits."""
        seconds = self._windows.of(key)
        hits, end = (0, 0.0) if seconds is None else await self._count(key, seconds, 0)
        return int(end if hits > 0 else time.time())

    async def check(self) -> bool:
        """Does the database count?"""
        try:
            await self._run([], self._timeout)
        except Exception:
            return False
        return True

    async def reset(self) -> Optional[int]:
        raise NotImplementedError("only the owner of the extension may reset all keys, with rl_reset_all()")

    async def clear(self, key: str) -> None:
        """The key has no hits in the present window."""
        seconds = self._windows.of(key)
        if seconds is not None:
            await self._count(key, seconds, ALL)

    async def close(self) -> None:
        """Wait for what is under way, and close the storage's own pool, if it has one."""
        await self._gatherer.settled()
        await self._driver.close()
        if self._pool is not None and not self._pool.closed:
            await self._pool.close()

    async def _count(self, key: str, seconds: int, n: float) -> tuple[float, float]:
        call = Call("count", _key(key), n, seconds, future=asyncio.get_running_loop().create_future())
        self._gatherer.add(call)
        hits, end = await call.future
        return hits, end

    async def _run(self, calls: Any, seconds: float) -> Any:
        if self._pool is not None and self._pool.closed:
            await self._pool.open()
        return await self._driver.query(self._statement, _values(calls, self._limiter), seconds)


def _settle(calls: Any, rows: Any) -> None:
    for call, row in zip(calls, rows):
        if not call.future.done():
            call.future.set_result(row)


def _fail(calls: Any, error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)


def _hits(hits: float) -> int:
    # infinite if the extension cannot count and ratelimit.on_error is deny
    return int(min(hits, sys.maxsize))


def _wrapping(wrap_exceptions: bool) -> dict[str, Any]:
    """The option is one of limits 3 and later."""
    return {"wrap_exceptions": True} if wrap_exceptions else {}
