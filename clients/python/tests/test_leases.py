"""Leases: many decisions of one query, and never more than the bucket gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any

from support import (
    AMPLE,
    POOLS,
    AsyncTestCase,
    Patience,
    Proxy,
    async_patiently,
    async_until,
    fresh,
    needs,
    new_pool,
    patiently,
    sql,
    until,
)

from ratelimit_postgresql import AsyncRateLimiter, Lease, RateLimiter

# By hand, RATELIMIT_LEASE_SECONDS=60: then the processes have to use what there is.
LONG = float(os.environ.get("RATELIMIT_LEASE_SECONDS") or 0)
SECONDS = LONG or 5
HERE = Path(__file__).resolve().parent


def in_bucket(limiter: Any, key: str = "a") -> float:
    rule = limiter.rule
    remaining: float = sql(
        "SELECT remaining FROM rl_peek(%s, %s, %s, 0, %s)", key, rule.capacity, rule.refill, rule.limiter
    )[0]
    return remaining


@needs("psycopg", "psycopg_pool")
class Threads(unittest.TestCase):
    def limiter(
        self, pool: Any, capacity: float = 1000, refill: float = 0, lease: Any = True, **options: Any
    ) -> RateLimiter:
        options = {"limiter": fresh("lease"), "timeout": AMPLE, **options}
        return RateLimiter(pool, capacity=capacity, refill=refill, lease=lease, **options)

    def test_many_calls_are_few_queries(self) -> None:
        with new_pool() as pool, self.limiter(pool, 5000) as limiter:
            allowed = 0
            for i in range(6000):
                if limiter.consume("a"):
                    allowed += 1
                elif i > 5000:
                    break
            self.assertEqual(allowed, 5000)
            self.assertLess(limiter.stats.queries, 200)
            self.assertFalse(limiter.consume("a", 5001))

    def test_threads_and_limiters_take_exactly_what_there_is(self) -> None:
        with new_pool() as pool:
            name = fresh("exact")
            limiters = [self.limiter(pool, 400, limiter=name) for _ in range(3)]
            taken: list[float] = []

            def run(limiter: RateLimiter) -> None:
                for _ in range(20):
                    taken.extend(cost for cost in (0.5, 1) if limiter.consume("a", cost))

            threads = [threading.Thread(target=run, args=(limiters[i % 3],)) for i in range(24)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for limiter in limiters:
                limiter.close()
            with self.limiter(pool, 400, limiter=name) as rest:
                while rest.consume("a", 0.5):
                    taken.append(0.5)
            self.assertEqual(sum(taken) + in_bucket(rest), 400)
            self.assertLess(in_bucket(rest), 1)

    def test_what_is_not_used_goes_back(self) -> None:
        events: list[Any] = []
        with new_pool() as pool:
            limiter = self.limiter(
                pool,
                lease=Lease(seconds=10, idle=0.2),
                metrics=lambda *args, **details: events.append((*args, details)),
            )
            self.assertTrue(all(limiter.consume("a") for _ in range(100)))
            until(lambda: in_bucket(limiter) == 900, "the rest is back")
            until(
                lambda: any(event == "returned" and details["tokens"] > 0 for event, details in events),
                "the hook is told",
            )
            self.assertTrue(all(limiter.consume("a") for _ in range(50)))
            limiter.close()
            self.assertEqual(in_bucket(limiter), 850)

    def test_close_waits_for_what_another_thread_gives_back(self) -> None:
        begun = threading.Event()
        closed = threading.Event()
        with new_pool() as pool:

            def connection() -> Any:
                if threading.current_thread().name == "ratelimit leases" and not begun.is_set():
                    begun.set()
                    closed.wait(0.5)  # until close() has returned, if it does not wait
                return pool.connection(timeout=AMPLE)

            limiter = self.limiter(connection, lease=Lease(seconds=10, idle=0.2))
            self.assertTrue(all(limiter.consume("a") for _ in range(100)))
            self.assertTrue(begun.wait(AMPLE), "it gives back")
            limiter.close()
            left = in_bucket(limiter)
            closed.set()
            self.assertEqual(left, 900)

    def test_on_exit_of_the_process_as_well(self) -> None:
        name = fresh("exit")
        code = f"""
import support, sys, os
from ratelimit_postgresql import Lease, RateLimiter
import psycopg
conn = psycopg.connect(support.conninfo())
limiter = RateLimiter(conn, capacity=1000, refill=0, limiter={name!r}, timeout=30, lease=Lease(seconds=10, idle=60))
for _ in range(100): assert limiter.consume("a")
# a child has not what its parent has taken
if os.fork() == 0:
    own = RateLimiter(lambda: psycopg.connect(support.conninfo()), capacity=1000, refill=0, limiter={name!r}, timeout=30)
    limiter._driver = own._driver
    assert limiter.consume("a")
    limiter.close()
    os._exit(0)
assert os.wait()[1] == 0
"""
        subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True)
        self.assertEqual(sql("SELECT remaining FROM rl_peek('a', 1000, 0, 0, %s)", name), (899,))

    def test_a_role_that_may_not_give_back_uses_what_it_has(self) -> None:
        role = fresh("lessee").replace(" ", "_")
        sql(f"CREATE ROLE {role} LOGIN")
        self.addCleanup(sql, f"DROP ROLE {role}")
        lost: list[float] = []
        with new_pool(user=role) as pool:
            limiter = self.limiter(
                pool,
                100,
                lease=Lease(10, 0.1),
                metrics=lambda event, **details: event == "lost" and lost.append(details["tokens"]),
            )
            with self.assertLogs("ratelimit_postgresql") as logs:
                for _ in range(30):
                    limiter.consume("a")
                until(lambda: lost, "it has tried")
            self.assertIn("this role may not call rl_reward()", logs.output[0])
            allowed = 30
            while limiter.consume("a"):
                allowed += 1
            self.assertTrue(allowed <= 100 <= allowed + sum(lost), allowed)
            limiter.close()

    def test_throttle(self) -> None:
        with new_pool() as pool, self.limiter(pool, 20, 0.001) as limiter:
            for i in range(1, 21):
                result = limiter.throttle("a")
                self.assertEqual((result.allowed, int(result.remaining), result.by), (True, 20 - i, "lease"))
            result = limiter.throttle("a")
            self.assertEqual((result.allowed, result.capacity), (False, 20))
            self.assertTrue(900 < result.retry_after <= 1000, result)
            self.assertIsNone(limiter.throttle("a", 21).retry_after)
        # and that is when it is allowed
        with new_pool() as pool, self.limiter(pool, 1, 0.5) as limiter:
            while (result := limiter.throttle("a")).allowed:
                pass
            self.assertTrue(0 < result.retry_after <= 2, result)
            time.sleep(result.retry_after)
            self.assertTrue(limiter.consume("a"))

    def test_what_is_too_little_is_left_to_others(self) -> None:
        with new_pool() as pool:
            name = fresh("little")
            one, other = (self.limiter(pool, 100, limiter=name, lease=Lease(idle=60)) for _ in range(2))
            self.assertEqual([one.consume("a", 60), one.consume("a", 60), other.consume("a", 40)], [True, False, True])
            one.close()
            other.close()

    def test_a_block(self) -> None:
        with new_pool() as pool, self.limiter(pool, 20, 1) as limiter:
            sql("SELECT rl_block('a', '1 hour', %s)::text", limiter.rule.limiter)
            result = limiter.throttle("a")
            self.assertFalse(result.allowed)
            self.assertTrue(3500 < result.retry_after <= 3600, result)

    def test_away(self) -> None:
        patiently(self.away)

    def away(self, patience: Patience) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            limiter = self.limiter(
                pool, lease=Lease(10, 60), timeout=patience.timeout, away="deny", metrics=patience.hook("")
            )
            for _ in range(60):
                limiter.consume("a")
            patience.there = False
            proxy.stop()
            allowed = 0
            while limiter.consume("a"):
                allowed += 1
            self.assertLess(0, allowed, "what it has, it uses")
            self.assertLess(allowed, 250)
            self.assertTrue(limiter.stats.away)
            proxy.start()
            until(lambda: limiter.consume("a"), "it is back")
            limiter.close()


class Tasks(AsyncTestCase):
    async def each(self) -> Any:
        for make in POOLS:
            async with contextlib.AsyncExitStack() as stack:
                with self.subTest(make.__name__):
                    yield await make(stack)

    def limiter(
        self, pool: Any, capacity: float = 1000, refill: float = 0, lease: Any = True, **options: Any
    ) -> AsyncRateLimiter:
        options = {"limiter": fresh("lease"), "timeout": AMPLE, **options}
        return AsyncRateLimiter(pool, capacity=capacity, refill=refill, lease=lease, **options)

    async def test_many_calls_are_few_queries(self) -> None:
        async for db in self.each():
            async with self.limiter(db, 5000) as limiter:
                allowed = 0
                for i in range(6000):
                    if await limiter.consume("a"):
                        allowed += 1
                    elif i > 5000:
                        break
                self.assertEqual(allowed, 5000)
                self.assertLess(limiter.stats.queries, 200)

    async def test_concurrent_callers_take_exactly_what_there_is(self) -> None:
        async for db in self.each():
            name = fresh("exact")
            limiters = [self.limiter(db, 400, limiter=name) for _ in range(3)]
            taken: list[float] = []

            async def run(limiter: AsyncRateLimiter) -> None:
                for _ in range(20):
                    for cost in (0.5, 1):
                        if await limiter.consume("a", cost):
                            taken.append(cost)

            await asyncio.gather(*(run(limiters[i % 3]) for i in range(60)))
            for limiter in limiters:
                await limiter.close()
            async with self.limiter(db, 400, limiter=name) as rest:
                while await rest.consume("a", 0.5):
                    taken.append(0.5)
            self.assertEqual(sum(taken) + in_bucket(rest), 400)

    async def test_what_is_not_used_goes_back(self) -> None:
        async for db in self.each():
            limiter = self.limiter(db, lease=Lease(seconds=10, idle=0.2))
            for _ in range(100):
                self.assertTrue(await limiter.consume("a"))
            await async_until(lambda: in_bucket(limiter) == 900, "the rest is back")
            for _ in range(50):
                self.assertTrue(await limiter.consume("a"))
            await limiter.close()
            self.assertEqual(in_bucket(limiter), 850)

    async def test_a_bucket_that_has_plenty(self) -> None:
        """The first portion is what other keys use, and what is too much goes back."""
        async for db in self.each():
            asked = 0
            used: dict[str, int] = {}

            def count(event: str, **details: Any) -> None:
                nonlocal asked
                if event == "query" and details["kind"] == "take":
                    asked += details["calls"]

            limiter = self.limiter(db, 1e6, lease=Lease(idle=0.2), metrics=count)

            async def call(key: str) -> None:
                self.assertTrue(await limiter.consume(key))
                used[key] = used.get(key, 0) + 1

            end = time.monotonic() + 1
            n = 0
            while n < 300 or time.monotonic() < end:
                for i in range(10):
                    await call(f"key {i}")
                await asyncio.sleep(0.001)
                n += 1
            asked = 0
            for i in range(20):
                for _ in range(16):
                    await call(f"new {i}")
            self.assertLess(asked, 60, "if they began with one token, they would be 100")

            # much, and then little
            for _ in range(5000):
                await call("little")

            async def is_back() -> bool:
                await call("little")
                return 1e6 - in_bucket(limiter, "little") - used["little"] < 1000

            await async_until(is_back, "what it does not use is back, though it is called")
            await limiter.close()
            for key, n in used.items():
                self.assertEqual(1e6 - in_bucket(limiter, key), n, key)

    async def test_throttle_and_calls_that_are_cancelled(self) -> None:
        async for db in self.each():
            async with self.limiter(db, 20, 0.001) as limiter:
                cancelled = asyncio.create_task(limiter.consume("b"))
                other = asyncio.create_task(limiter.consume("b"))
                await asyncio.sleep(0)
                cancelled.cancel()
                self.assertTrue(await other)
                with self.assertRaises(asyncio.CancelledError):
                    await cancelled
                for i in range(1, 21):
                    result = await limiter.throttle("a")
                    self.assertEqual((result.allowed, int(result.remaining), result.by), (True, 20 - i, "lease"))
                result = await limiter.throttle("a")
                self.assertTrue(not result.allowed and 900 < result.retry_after <= 1000, result)
            self.assertEqual(int(in_bucket(limiter, "b")), 19)

    async def test_away(self) -> None:
        for make in POOLS:
            with self.subTest(make.__name__):
                await async_patiently(lambda patience: self.away(make, patience))

    async def away(self, make: Any, patience: Patience) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = stack.enter_context(Proxy())
            limiter = self.limiter(
                await make(stack, proxy.host),
                lease=Lease(10, 60),
                timeout=patience.timeout,
                away="deny",
                metrics=patience.hook(""),
            )
            for _ in range(60):
                await limiter.consume("a")
            patience.there = False
            proxy.stop()
            allowed = 0
            while await limiter.consume("a"):
                allowed += 1
            self.assertLess(0, allowed, "what it has, it uses")
            self.assertLess(allowed, 250)
            self.assertTrue(limiter.stats.away)
            proxy.start()
            await async_until(lambda: limiter.consume("a"), "it is back")
            await limiter.close()


@needs("psycopg", "psycopg_pool")
class Killed(unittest.TestCase):
    def test_processes_killed_at_random_never_take_more_than_there_is(self) -> None:
        """Four processes on one bucket: never above capacity + refill x t."""
        # in the short form, the bucket has room for what a busy machine does not use
        capacity = 1000 if LONG else 60000
        rule = {"capacity": capacity, "refill": 1000, "limiter": fresh("killed")}
        folder = self.enterContext(tempfile.TemporaryDirectory())
        files: list[Path] = []
        children: list[Any] = [None] * 4
        kills = 0

        def begin(i: int) -> None:
            file = Path(folder) / str(len(files))
            files.append(file)
            options = {"file": str(file), "rule": rule, "callers": 8, "threads": i % 2 == 0}
            children[i] = subprocess.Popen([sys.executable, str(HERE / "lease_process.py"), json.dumps(options)])

        def allowed() -> int:
            return sum(int.from_bytes(file.read_bytes(), "little") for file in files if file.exists())

        def take() -> float:
            taken: float = sql(
                "SELECT rl_consume_upto('bucket', %s, 1000, %s, %s)", capacity, capacity, rule["limiter"]
            )[0]
            return taken

        def left() -> float:
            remaining: float = sql(
                "SELECT remaining FROM rl_peek('bucket', %s, 1000, 0, %s)", capacity, rule["limiter"]
            )[0]
            return remaining

        # from when the bucket is empty on, all calls together have no more than the refill
        empty = time.monotonic()
        taken = take() - capacity
        self.assertEqual(taken, 0)
        try:
            for i in range(4):
                begin(i)
            until(lambda: all(file.exists() and file.stat().st_size == 8 for file in files), "all of them call", 60)
            # from here on they have all of it
            taken = take()
            began = time.monotonic()
            before = allowed()
            while time.monotonic() < began + SECONDS:
                time.sleep(0.7 + random.random() * 0.9)
                i = random.randrange(4)
                children[i].kill()
                children[i].wait()
                kills += 1
                begin(i)
            seconds = time.monotonic() - began
            used = allowed() - before
            unused = left()
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
        finally:
            for child in children:
                if child is not None:
                    child.kill()
                    child.wait()
        least = (time.monotonic() - empty) * 1000
        total = allowed() + taken + left()
        most = (time.monotonic() - empty) * 1000
        print(
            f"# {kills} kills, {used} calls allowed in {seconds:.2f} s: {used / seconds / 10:.1f} %,"
            f" {unused:.0f} left; {100 - total / most * 100:.1f} % lost"
        )
        # what was used, taken here, and is left, is at most what has come
        self.assertLessEqual(total, most)
        if LONG:
            self.assertGreaterEqual(used, 0.97 * 1000 * seconds)
        else:
            # each kill loses a portion, and kills are a greater part of a short time
            self.assertGreaterEqual(total, 0.9 * least)


if __name__ == "__main__":
    unittest.main()
