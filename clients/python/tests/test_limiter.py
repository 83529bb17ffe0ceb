"""Decisions of the database: the same by all drivers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import unittest
from typing import Any

from support import AMPLE, ASYNC, AsyncTestCase, async_until, conninfo, fresh, needs, new_pool, psycopg_pool, sql, until

from ratelimit_postgresql import AsyncRateLimiter, LocalBucket, RateLimiter, per


@contextlib.contextmanager
def databases() -> Any:
    """Whatever a RateLimiter takes, by name."""
    import psycopg

    with new_pool() as pool, psycopg.connect(conninfo()) as conn:
        yield {"pool": pool, "connection": conn, "function": lambda: pool.connection()}


@needs("psycopg", "psycopg_pool")
class Sync(unittest.TestCase):
    def test_consume_and_throttle(self) -> None:
        with databases() as dbs:
            for name, db in dbs.items():
                with self.subTest(name), RateLimiter(
                    db, capacity=3, refill=0.001, limiter=fresh("s"), timeout=AMPLE
                ) as limiter:
                    self.assertEqual([limiter.consume("a") for _ in range(4)], [True, True, True, False])
                    result = limiter.throttle("a", 2)
                    self.assertEqual(
                        (result.allowed, result.capacity, result.limiter), (False, 3, limiter.rule.limiter)
                    )
                    self.assertTrue(0 <= result.remaining < 1 and 1900 < result.retry_after <= 2000, result)
                    self.assertTrue(2900 < result.reset_after <= 3000, result)
                    self.assertEqual((result.shadowed, result.by), (False, "database"))
                    self.assertIs(limiter.consume("b", 4), False)
                    self.assertIs(limiter.consume("b", cost=3), True)
                    self.assertIsNone(limiter.throttle("b", 4).retry_after, "waiting does not help")
                    stats = limiter.stats
                    self.assertEqual((stats.allowed, stats.denied, stats.queries, stats.errors), (4, 5 - 1, 8, 0))

    def test_keys_arrive_as_they_are(self) -> None:
        keys = ["a", 'q"uote', "back\\slash", "com,ma", "{brace}", "NULL", " ", "é€😀", "a\nb", "k" * 255]
        with new_pool() as pool, RateLimiter(
            pool, capacity=1, refill=0, limiter=fresh("keys"), timeout=AMPLE
        ) as limiter:
            self.assertEqual([limiter.consume(key) for key in keys], [True] * len(keys))
            for key in keys:
                self.assertEqual(
                    sql("SELECT remaining FROM rl_peek(%s, 1, 0, 0, %s)", key, limiter.rule.limiter), (0,), key
                )

    def test_another_encoding(self) -> None:
        with new_pool(options="-c client_encoding=latin1", max_size=1) as pool:
            limiter = RateLimiter(pool, capacity=1, refill=0, limiter=fresh("latin"), timeout=AMPLE)
            self.assertTrue(limiter.consume("é"))
            self.assertEqual(sql("SELECT remaining FROM rl_peek('é', 1, 0, 0, %s)", limiter.rule.limiter), (0,))
            with self.assertRaises(UnicodeEncodeError):
                limiter.consume("€")
            self.assertFalse(limiter.consume("é"))
            self.assertNotIn("connections_lost", pool.get_stats(), "the connection is as good as before")

    def test_policy_period_slots_reservations(self) -> None:
        name = fresh("p").replace(" ", "_")
        sql("INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES (%s, 2, 0, true)", name)
        with new_pool() as pool:
            policy = RateLimiter(pool, policy=name, timeout=AMPLE)
            self.assertEqual([policy.consume("a") for _ in range(3)], [True, True, False])
            self.assertEqual(policy.throttle("a").capacity, 2)
            reservation = policy.reserve("b", 2)
            self.assertEqual((reservation.settle(1), reservation.settle(1)), (1, None))

            period = RateLimiter(pool, allowance=3, period="day Europe/Berlin", limiter=fresh("period"), timeout=AMPLE)
            self.assertEqual([period.consume("a", 2), period.consume("a", 2), period.consume("a")], [True, False, True])
            result = period.throttle("a")
            self.assertEqual((result.allowed, result.capacity, result.remaining), (False, 3, 0))
            self.assertTrue(0 < result.retry_after <= 90000)

            slots = RateLimiter(pool, slots=3, limiter=fresh("slots"), timeout=AMPLE)
            one, two = slots.acquire("a"), slots.acquire("a", weight=2)
            self.assertIsNone(slots.acquire("a"))
            self.assertEqual((one.release(), one.release(), two.renew(60)), (True, False, True))
            with slots.acquire("a"):
                self.assertIsNone(slots.acquire("a"))
            short = slots.acquire("a", hold=0.2)
            until(lambda: slots.acquire("a"), "it is free by itself")
            self.assertFalse(short.renew())
            with self.assertRaisesRegex(TypeError, "slots are acquired, not consumed"):
                slots.consume("a")

            bucket = RateLimiter(pool, capacity=100, refill=0, limiter=fresh("reserve"), timeout=AMPLE)
            one = bucket.reserve("a", 60)
            self.assertIsNone(bucket.reserve("a", 60))
            self.assertEqual((one.settle(25), one.settle(25)), (75, None))
            with self.assertRaisesRegex(TypeError, r"acquire\(\) needs another rule"):
                bucket.acquire("a")

    def test_threads_share_one_connection(self) -> None:
        import psycopg

        with psycopg.connect(conninfo()) as conn:
            limiter = RateLimiter(conn, capacity=50, refill=0, limiter=fresh("threads"), timeout=AMPLE)
            allowed: list[bool] = []

            def run() -> None:
                for _ in range(20):
                    allowed.append(limiter.consume("a"))

            threads = [threading.Thread(target=run) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual((sum(allowed), len(allowed)), (50, 160))
            self.assertEqual((limiter.stats.allowed, limiter.stats.denied), (50, 110))
            self.assertEqual(
                conn.info.transaction_status, psycopg.pq.TransactionStatus.IDLE, "no transaction is left open"
            )

    def test_statements_that_are_discarded_do_no_harm(self) -> None:
        import psycopg

        with psycopg.connect(conninfo(), autocommit=True) as conn:
            limiter = RateLimiter(conn, capacity=5, refill=0, limiter=fresh("discard"), timeout=AMPLE)
            self.assertTrue(limiter.consume("a"))
            self.assertEqual(conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone(), (1,))
            conn.execute("DEALLOCATE ALL")
            self.assertTrue(limiter.consume("a"))
            self.assertTrue(limiter.consume("a"))
            bare = RateLimiter(conn, capacity=5, refill=0, limiter=fresh("discard"), timeout=AMPLE, prepare=False)
            conn.execute("DEALLOCATE ALL")
            self.assertTrue(bare.consume("a"))
            self.assertEqual(conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone(), (0,))

    def test_bad_arguments(self) -> None:
        with new_pool() as pool:
            limiter = RateLimiter(pool, capacity=1, refill=0)
            for call, error, message in (
                (lambda: limiter.consume(42), TypeError, "key must be a str, not int"),
                (lambda: limiter.consume(""), ValueError, "key must not be empty"),
                (lambda: limiter.consume("k" * 256), ValueError, "key must not be longer than 255 bytes"),
                (lambda: limiter.consume("a\0"), ValueError, "key must not contain a zero byte"),
                (lambda: limiter.consume("\ud800"), UnicodeEncodeError, "surrogates"),
                (lambda: limiter.consume("a", -1), ValueError, "cost must be a finite number not below 0, not -1"),
                (lambda: limiter.consume("a", "1"), TypeError, "cost must be a number, not str"),
                (lambda: limiter.consume("a", True), TypeError, "cost must be a number, not bool"),
                (lambda: RateLimiter(pool), TypeError, "capacity must be a number, not NoneType"),
                (lambda: RateLimiter(pool, capacity=1, refill=float("inf")), ValueError, "refill must be"),
                (
                    lambda: RateLimiter(pool, capacity=1, refill=1, limiter="a:b"),
                    ValueError,
                    'limiter must not contain ":"',
                ),
                (
                    lambda: RateLimiter(pool, policy="free", capacity=1),
                    TypeError,
                    "capacity must not be given with policy",
                ),
                (lambda: RateLimiter(pool, policy="free", lease=True), TypeError, "lease must be given with capacity"),
                (lambda: RateLimiter(pool, policy="free", away="local"), TypeError, "away must be"),
                (lambda: RateLimiter(pool, slots=1, away=LocalBucket(1, 1)), TypeError, "away must be"),
                (lambda: RateLimiter(pool, capacity=1, refill=1, away="open"), TypeError, "away must be"),
                (lambda: RateLimiter(object(), capacity=1, refill=1), TypeError, "db must be"),
                (lambda: AsyncRateLimiter(pool, capacity=1, refill=1), TypeError, "db must be"),
                (lambda: per(1, 0), ValueError, "span must be"),
                (lambda: per(1, "week"), ValueError, "span must be"),
            ):
                with self.subTest(message), self.assertRaisesRegex(error, message):
                    call()
            self.assertEqual((per(90, "minute"), per(90, 45)), (1.5, 2))

    def test_errors_of_the_server_are_the_callers(self) -> None:
        import psycopg

        with new_pool(options="-c search_path=pg_catalog") as pool:
            limiter = RateLimiter(pool, capacity=1, refill=0, away="allow", timeout=AMPLE)
            for call in (limiter.consume, limiter.throttle):
                with self.assertRaises(psycopg.errors.UndefinedFunction):
                    call("a")
            self.assertFalse(limiter.stats.away, "it does not mean that the database is away")
            schema = sql("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'ratelimit'")[0]
            self.assertTrue(RateLimiter(pool, capacity=1, refill=0, schema=schema, timeout=AMPLE).consume(fresh("a")))

    def test_the_hook(self) -> None:
        events: list[Any] = []
        with new_pool() as pool:
            limiter = RateLimiter(
                pool,
                capacity=1,
                refill=0,
                limiter=fresh("hook"),
                timeout=AMPLE,
                metrics=lambda *args, **details: events.append((*args, details)),
            )
            limiter.consume("a")
            limiter.consume("a")
            self.assertEqual([name for name, _ in events], ["query", "decision"] * 2)
            self.assertEqual(events[1][1], {"allowed": True, "key": "a", "by": "database"})
            self.assertEqual((events[0][1]["kind"], events[0][1]["calls"], events[0][1]["error"]), ("consume", 1, None))
            broken = RateLimiter(
                pool, capacity=1, refill=0, limiter=fresh("hook"), timeout=AMPLE, metrics=lambda event: None
            )
            with self.assertLogs("ratelimit_postgresql"):
                self.assertTrue(broken.consume("a"))

    def test_close(self) -> None:
        with new_pool() as pool:
            with RateLimiter(pool, slots=1, limiter=fresh("close"), timeout=AMPLE) as limiter:
                held = limiter.acquire("a")
            with self.assertRaisesRegex(RuntimeError, "the limiter is closed"):
                limiter.acquire("a")
            self.assertTrue(held.release(), "what is held is released after close(), too")
            limiter.close()


class Async(AsyncTestCase):
    async def each(self) -> Any:
        for make in ASYNC:
            async with contextlib.AsyncExitStack() as stack:
                with self.subTest(make.__name__):
                    yield await make(stack)

    async def test_calls_of_one_turn_are_one_query(self) -> None:
        async for db in self.each():
            async with AsyncRateLimiter(db, capacity=3, refill=0.001, limiter=fresh("a"), timeout=AMPLE) as limiter:
                self.assertEqual(
                    await asyncio.gather(*(limiter.consume("a") for _ in range(5))), [True] * 3 + [False] * 2
                )
                self.assertEqual(limiter.stats.queries, 1)
                # costs that differ are another statement, and so are results
                self.assertEqual(
                    await asyncio.gather(limiter.consume("b", 2), limiter.consume("b", 2), limiter.consume("b", 1)),
                    [True, False, True],
                )
                results = await asyncio.gather(
                    limiter.throttle("c", 2), limiter.throttle("c", 2), limiter.throttle('d"\\')
                )
                self.assertEqual([result.allowed for result in results], [True, False, True])
                self.assertEqual([result.by for result in results], ["database"] * 3)
                self.assertTrue(900 < results[1].retry_after <= 1000, results[1])
                self.assertEqual(limiter.stats.queries, 3)
                self.assertIs(await limiter.consume("e"), True)

    async def test_policy_period_slots_reservations(self) -> None:
        name = fresh("p").replace(" ", "_")
        sql("INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES (%s, 2, 0, true)", name)
        async for db in self.each():
            key = fresh("k")
            policy = AsyncRateLimiter(db, policy=name, timeout=AMPLE)
            self.assertEqual(await asyncio.gather(*(policy.consume(key) for _ in range(3))), [True, True, False])
            self.assertEqual((await policy.throttle(key)).capacity, 2)
            period = AsyncRateLimiter(
                db, allowance=3, period="day Europe/Berlin", limiter=fresh("period"), timeout=AMPLE
            )
            self.assertEqual(await asyncio.gather(*(period.consume("a", n) for n in (2, 2, 1))), [True, False, True])
            self.assertEqual((await period.throttle("a")).remaining, 0)
            slots = AsyncRateLimiter(db, slots=3, limiter=fresh("slots"), timeout=AMPLE)
            one, two, three = await asyncio.gather(slots.acquire("a"), slots.acquire("a", weight=2), slots.acquire("a"))
            self.assertTrue(one and two and three is None)
            self.assertEqual((await one.release(), await one.release(), await two.renew(60)), (True, False, True))
            async with await slots.acquire("a"):
                self.assertIsNone(await slots.acquire("a"))
            bucket = AsyncRateLimiter(db, capacity=100, refill=0, limiter=fresh("reserve"), timeout=AMPLE)
            one, two = await asyncio.gather(bucket.reserve("a", 60), bucket.reserve("a", 60))
            self.assertIsNone(two)
            self.assertEqual((await one.settle(25), await one.settle(25)), (75, None))

    async def test_load_of_many_callers(self) -> None:
        async for db in self.each():
            async with AsyncRateLimiter(db, capacity=1000, refill=0, limiter=fresh("load"), timeout=AMPLE) as limiter:

                async def caller() -> int:
                    return sum([await limiter.consume("a") for _ in range(50)])

                self.assertEqual(sum(await asyncio.gather(*(caller() for _ in range(40)))), 1000)
                stats = limiter.stats
                self.assertEqual((stats.allowed, stats.denied, stats.errors), (1000, 1000, 0))
                self.assertLess(stats.queries, 500)

    async def test_a_call_that_is_cancelled_is_not_sent(self) -> None:
        async for db in self.each():
            async with AsyncRateLimiter(db, capacity=2, refill=0, limiter=fresh("cancel"), timeout=AMPLE) as limiter:
                cancelled = asyncio.create_task(limiter.consume("a"))
                asyncio.get_running_loop().call_soon(cancelled.cancel)
                other = asyncio.create_task(limiter.consume("a"))
                self.assertTrue(await other)
                with self.assertRaises(asyncio.CancelledError):
                    await cancelled
                self.assertEqual((await limiter.throttle("a", 0)).remaining, 1, "only the other one has taken")
                # under way: its tokens are taken
                sent = asyncio.create_task(limiter.consume("a"))
                for _ in range(3):
                    await asyncio.sleep(0)
                sent.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await sent

                async def taken() -> bool:
                    return (await limiter.throttle("a", 0)).remaining == 0

                await async_until(taken, "the query that was under way took the token")

    async def test_a_bad_argument_fails_its_own_call_only(self) -> None:
        async for db in self.each():
            limiter = AsyncRateLimiter(db, capacity=1, refill=0, limiter=fresh("bad"), timeout=AMPLE)
            answers = await asyncio.gather(
                limiter.consume("a"),
                limiter.consume("k" * 256),
                limiter.consume("b", float("nan")),
                return_exceptions=True,
            )
            self.assertIs(answers[0], True)
            self.assertEqual([type(answer) for answer in answers[1:]], [ValueError, ValueError])

    @needs("psycopg_pool")
    async def test_close_waits_for_what_is_under_way(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            pool = await psycopg_pool(stack)
            limiter = AsyncRateLimiter(pool, capacity=1, refill=0, limiter=fresh("close"), timeout=AMPLE)
            last = asyncio.create_task(limiter.consume("a"))
            await asyncio.sleep(0)
            await limiter.close()
            self.assertEqual(limiter.stats.allowed, 1)
            self.assertTrue(await last)
            with self.assertRaisesRegex(RuntimeError, "the limiter is closed"):
                await limiter.consume("a")
            self.assertFalse(pool.closed)


if __name__ == "__main__":
    unittest.main()
