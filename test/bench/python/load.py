"""load.py ROUNDS SECONDS MODE...: one process with asyncio, 32 callers at a time, 10,000 keys.
Measures the modes in turn, round after round, and prints "mode round calls/s".

load.py --rate N ROUNDS SECONDS MODE...: N calls/s, each begun when it is due whether or not
others have been answered. Prints "mode round p50 p99 p99.9", in microseconds from when a call
was due.

Servers: PGHOST, PGPORT and so on; REDIS_SOCKET.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Any, Awaitable, Callable, Tuple

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../../clients/python"))

import limits
import limits.aio.strategies
import limits.storage
from psycopg_pool import AsyncConnectionPool
from ratelimit_postgresql import AsyncRateLimiter

CALLERS = 32
KEYS = [f"user:{i}" for i in range(10000)]
POOL = 10  # connections
WARM_UP = 0.5  # seconds

Mode = Tuple[Callable[[str], Awaitable[Any]], Callable[[], Awaitable[Any]]]


def any_key() -> str:
    return KEYS[int(random.random() * len(KEYS))]


async def client(make_pool: Callable[[], Awaitable[Any]], **options: Any) -> Mode:
    """The package of clients/python, as it is by default."""
    pool = await make_pool()
    limiter = AsyncRateLimiter(pool, capacity=1e9, refill=1, **options)
    # that what is measured decides rightly: each key once
    keys = ["a", "a", 'a"', "a\\", "{a,b}", "NULL", "null", " a ", "it's", "é€😀", "a\n", 'a"']
    async with AsyncRateLimiter(pool, capacity=1, refill=0, limiter=f"check {time.time()}", **options) as check:
        decisions = await asyncio.gather(*map(check.consume, keys))
    for key in keys:
        assert [allowed for allowed, other in zip(decisions, keys) if other == key].count(True) == 1, key

    async def close() -> None:
        await limiter.close()
        await pool.close()

    return limiter.consume, close


async def psycopg_pool() -> Any:
    pool = AsyncConnectionPool("", min_size=POOL, max_size=POOL, open=False)
    await pool.open()
    return pool


async def asyncpg_pool() -> Any:
    import asyncpg

    return await asyncpg.create_pool(min_size=POOL, max_size=POOL)


async def limits_redis() -> Mode:
    """The package limits, with its own storage for asyncio, and redis-py."""
    storage: Any = limits.storage.storage_from_string(
        f"async+redis+unix://{os.environ['REDIS_SOCKET']}", implementation="redispy"
    )
    limiter = limits.aio.strategies.FixedWindowRateLimiter(storage)
    item = limits.parse("1000000000 per minute")

    async def close() -> None:
        await storage.bridge.storage.connection_pool.disconnect()

    return lambda key: limiter.hit(item, key), close


async def one_key(mode: Awaitable[Mode]) -> Mode:
    call, close = await mode
    return lambda key: call("one key"), close


MODES: dict[str, Callable[[], Awaitable[Mode]]] = {
    "batched": lambda: client(psycopg_pool),
    "batched_asyncpg": lambda: client(asyncpg_pool),
    "leased": lambda: client(psycopg_pool, lease=True),
    "leased_hot": lambda: one_key(client(psycopg_pool, lease=True)),
    "limits_redis": limits_redis,
}


async def throughput(call: Callable[[str], Awaitable[Any]], seconds: float) -> list[float]:
    """Calls a second, of callers that call again as soon as they are answered."""
    begin = time.perf_counter()
    end = begin + seconds
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await call(any_key())
            calls += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [calls / (time.perf_counter() - begin)]


async def latencies(call: Callable[[str], Awaitable[Any]], seconds: float, rate: float) -> list[float]:
    """Percentiles at a rate."""
    begin = time.perf_counter()
    total = int(rate * seconds)
    micros: list[float] = []
    tasks = set()

    async def one(due: float) -> None:
        await call(any_key())
        micros.append((time.perf_counter() - due) * 1e6)

    sent = 0
    while sent < total:
        while sent < min(total, int((time.perf_counter() - begin) * rate)):
            task = asyncio.create_task(one(begin + sent / rate))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    micros.sort()
    return [micros[int(len(micros) * p)] for p in (0.5, 0.99, 0.999)]


async def main(args: list[str]) -> None:
    rate = 0.0
    if args[0] == "--rate":
        rate = float(args[1])
        args = args[2:]
    rounds, seconds, names = int(args[0]), float(args[1]), args[2:]

    async def measure(call: Callable[[str], Awaitable[Any]], seconds: float) -> list[float]:
        return await (latencies(call, seconds, rate) if rate else throughput(call, seconds))

    ready = []
    for name in names:
        call, close = await MODES[name]()
        await measure(call, WARM_UP)
        ready.append((name, call, close))
    for number in range(1, rounds + 1):
        for name, call, _ in ready:
            print(name, number, *(f"{value:.1f}" for value in await measure(call, seconds)), flush=True)
        ready.reverse()  # each begins every other round
    for _, _, close in ready:
        await close()


asyncio.run(main(sys.argv[1:]))
