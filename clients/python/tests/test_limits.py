"""The storage for limits, and through it Flask-Limiter: what the package's own memory does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import unittest
from typing import Any

from support import AMPLE, DATABASE, HOST, POOLS, USER, AsyncTestCase, Proxy, fresh, has, needs, new_pool, sql, until

if has("limits"):
    import limits
    import limits.aio.strategies
    from limits import storage as storages
    from limits import strategies

    if has("psycopg", "psycopg_pool"):
        from ratelimit_postgresql.limits import AsyncRateLimitStorage, RateLimitStorage

URI = f"ratelimit://{USER}@/{DATABASE}?host={HOST}"

# what a strategy or an application does with a storage: method, key, arguments
STEPS = [
    ("get", "a"),
    ("incr", "a"),
    ("incr", "a", 3),
    ("get", "a"),
    ("get", "b"),
    ("incr", "b", 2),
    ("clear", "a"),
    ("get", "a"),
    ("incr", "a"),
    ("get", "b"),
    ("clear", "c"),
    ("get_expiry", "a"),
]


def setUpModule() -> None:
    """Windows of days end at midnight, so wait for that."""
    left = 86400 - time.time() % 86400
    if left < 60:
        time.sleep(left)


class Names:
    """Keys as a RateLimitItem makes them, and others."""

    def __init__(self) -> None:
        self.item = limits.parse("100 per 2 days")
        self.prefix = fresh("key")

    def keys(self) -> Any:
        return [
            lambda name: self.item.key_for(self.prefix, name),
            lambda name: f"{self.prefix} {name}",
            lambda name: f"{self.prefix} {name * 400}",
        ]


@needs("limits", "psycopg", "psycopg_pool")
class Storage(unittest.TestCase):
    def test_what_memory_does(self) -> None:
        names = Names()
        with new_pool() as pool:
            for key in names.keys():
                ours, theirs = RateLimitStorage(db=pool, timeout=AMPLE), storages.MemoryStorage()
                for method, name, *amount in STEPS:
                    options = {"expiry": 172800, "amount": amount[0] if amount else 1} if method == "incr" else {}
                    answers = [getattr(storage, method)(key(name), **options) for storage in (ours, theirs)]
                    with self.subTest((method, name)):
                        if method == "get_expiry":
                            # windows begin with a period, not with a key's first hit
                            self.assertTrue(time.time() < answers[0] <= answers[1] + 1, answers)
                        else:
                            self.assertEqual(answers[0], answers[1])
                            self.assertEqual(type(answers[0]), type(answers[1]))
                self.assertTrue(ours.check())
                self.assertLessEqual(abs(ours.get_expiry(key("nobody")) - time.time()), 2)
                self.assertTrue(issubclass(RateLimitStorage, storages.Storage))

    def test_the_strategy_fixed_window(self) -> None:
        storage = storages.storage_from_string(URI, timeout=AMPLE)
        self.addCleanup(storage.close)
        limiter = strategies.FixedWindowRateLimiter(storage)
        item = limits.parse("10 per day")
        who = fresh("who")
        self.assertTrue(limiter.test(item, who))
        self.assertEqual([limiter.hit(item, who, cost=3) for _ in range(4)], [True, True, True, False])
        self.assertFalse(limiter.test(item, who))
        reset, remaining = limiter.get_window_stats(item, who)
        self.assertEqual(remaining, 0)
        self.assertTrue(time.time() < reset <= time.time() + 86400)
        limiter.clear(item, who)
        self.assertTrue(limiter.test(item, who))
        self.assertEqual(limiter.get_window_stats(item, who)[1], 10)
        # another process has another storage, and the same hits
        other = storages.storage_from_string(URI, timeout=AMPLE)
        self.addCleanup(other.close)
        limiter.hit(item, who)
        self.assertEqual(other.get(item.key_for(who)), 1)
        self.assertEqual(storages.storage_from_string(URI, timeout=AMPLE, limiter="another").get(item.key_for(who)), 0)

    def test_a_window_ends(self) -> None:
        with new_pool() as pool:
            storage = RateLimitStorage(db=pool, timeout=AMPLE)
            limiter = strategies.FixedWindowRateLimiter(storage)
            item, who = limits.parse("1 per second"), fresh("who")
            while not limiter.hit(item, who):
                pass
            end = limiter.get_window_stats(item, who)[0]
            while time.time() < end:
                time.sleep(0.02)
            self.assertTrue(limiter.hit(item, who))

    def test_threads_lose_no_hit(self) -> None:
        with new_pool() as pool:
            storage = RateLimitStorage(db=pool, timeout=AMPLE)
            key = limits.parse("1 per day").key_for(fresh("who"))
            counts: list[int] = []
            threads = [
                threading.Thread(target=lambda: counts.extend(storage.incr(key, 86400) for _ in range(25)))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(sorted(counts), list(range(1, 201)))

    def test_what_cannot_hold_is_an_error(self) -> None:
        with new_pool() as pool:
            storage = RateLimitStorage(db=pool, timeout=AMPLE)
            for call, error in (
                (lambda: storage.incr("a", 60, elastic_expiry=True), NotImplementedError),
                (lambda: storage.reset(), NotImplementedError),
                (lambda: strategies.MovingWindowRateLimiter(storage), NotImplementedError),
                (lambda: storage.incr("a", 0), ValueError),
                (lambda: storage.incr("a", 60, amount=1.5), TypeError),
                (lambda: RateLimitStorage(db=pool, max_lifetime=1), TypeError),
                (lambda: RateLimitStorage(db=pool, limiter=""), ValueError),
            ):
                with self.subTest(error), self.assertRaises(error):
                    call()

    def test_away(self) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            storage = RateLimitStorage(db=pool, timeout=1)
            until(storage.check, "it is there")
            proxy.stop()
            self.assertFalse(storage.check())
            with self.assertRaises(storage.base_exceptions):
                storage.incr("a", 60)

    def test_a_role_that_may_count_and_nothing_else(self) -> None:
        role = fresh("counts").replace(" ", "_")
        sql(f"CREATE ROLE {role} LOGIN")
        self.addCleanup(sql, f"DROP OWNED BY {role}; DROP ROLE {role}")
        sql(f"GRANT EXECUTE ON FUNCTION rl_count TO {role}")
        with new_pool(user=role) as pool:
            storage = RateLimitStorage(db=pool, timeout=AMPLE)
            key = limits.parse("1 per day").key_for(role)
            self.assertEqual(storage.incr(key, 86400), 1)
            storage.clear(key)
            self.assertEqual(storage.get(key), 0)


@needs("limits", "psycopg", "psycopg_pool")
class AsyncStorage(AsyncTestCase):
    async def each(self) -> Any:
        for make in POOLS:
            async with contextlib.AsyncExitStack() as stack:
                with self.subTest(make.__name__):
                    yield await make(stack)

    async def test_what_memory_does(self) -> None:
        names = Names()
        async for db in self.each():
            for key in names.keys():
                ours = AsyncRateLimitStorage(db=db, timeout=AMPLE, limiter=fresh("l"))
                theirs = limits.aio.storage.MemoryStorage()
                for method, name, *amount in STEPS:
                    options = {"expiry": 172800, "amount": amount[0] if amount else 1} if method == "incr" else {}
                    one, other = [await getattr(storage, method)(key(name), **options) for storage in (ours, theirs)]
                    with self.subTest((method, name)):
                        if method == "get_expiry":
                            self.assertTrue(time.time() < one <= other + 1)
                        else:
                            self.assertEqual(one, other)
                self.assertTrue(await ours.check())
                with self.assertRaises(NotImplementedError):
                    await ours.incr("a", 60, elastic_expiry=True)
                with self.assertRaises(NotImplementedError):
                    await ours.reset()
                await ours.close()

    async def test_the_strategy_fixed_window(self) -> None:
        storage = storages.storage_from_string("async+" + URI, timeout=AMPLE)
        limiter = limits.aio.strategies.FixedWindowRateLimiter(storage)
        item, who = limits.parse("50 per day"), fresh("who")
        hits = await asyncio.gather(*(limiter.hit(item, who) for _ in range(200)))
        self.assertEqual(sum(hits), 50)
        self.assertEqual((await limiter.get_window_stats(item, who))[1], 0)
        await limiter.clear(item, who)
        self.assertTrue(await limiter.test(item, who))
        await storage.close()


@needs("flask_limiter", "psycopg", "psycopg_pool")
class FlaskLimiter(unittest.TestCase):
    def app(self, **options: Any) -> Any:
        from flask import Flask, request
        from flask_limiter import Limiter

        app = Flask("app")
        limiter = Limiter(
            lambda: request.headers["who"], app=app, headers_enabled=True, strategy="fixed-window", **options
        )

        @app.route("/")
        @limiter.limit("3 per day")
        def index() -> str:
            return "hello"

        return app.test_client()

    def test_a_route(self) -> None:
        who = fresh("who")
        with new_pool() as pool:
            uri = {"storage_uri": "ratelimit://", "storage_options": {"db": pool, "timeout": AMPLE, "limiter": "flask"}}
            # two processes
            one, other = self.app(**uri), self.app(**uri)
            answers = [client.get("/", headers={"who": who}) for client in (one, other, one, other)]
            self.assertEqual([answer.status_code for answer in answers], [200, 200, 200, 429])
            self.assertEqual([answer.headers["X-RateLimit-Remaining"] for answer in answers], ["2", "1", "0", "0"])
            self.assertTrue(0 < int(answers[-1].headers["Retry-After"]) <= 86400)
            self.assertEqual(one.get("/", headers={"who": fresh("who")}).status_code, 200)

    def test_away(self) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            uri = {"storage_uri": "ratelimit://", "storage_options": {"db": pool, "timeout": 0.3}}
            client = self.app(**uri, in_memory_fallback=["1 per day"])
            proxy.stop()
            answers = [client.get("/", headers={"who": "a"}).status_code for _ in range(2)]
            self.assertEqual(answers, [200, 429], "Flask-Limiter goes on by itself")


if __name__ == "__main__":
    unittest.main()
