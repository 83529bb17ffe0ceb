"""While the database is away, calls are decided as the application has chosen."""

from __future__ import annotations

import asyncio
import contextlib
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support import (
    AMPLE,
    POOLS,
    AsyncTestCase,
    Patience,
    Proxy,
    async_patiently,
    async_until,
    asyncpg_connection,
    conninfo,
    fresh,
    has,
    needs,
    new_pool,
    patiently,
    psycopg_connection,
    sql,
    until,
)

from ratelimit_postgresql import AsyncRateLimiter, LocalBucket, RateLimiter, RateLimitUnavailableError, Result

CHOICES: dict[str, Any] = {
    "raise": "raise",
    "allow": "allow",
    "deny": "deny",
    "local": "local",
    "other": LocalBucket(1, 0),
}


def decides(limiter: RateLimiter) -> bool:
    """Does the database decide? What is denied or allowed without it does not count."""
    return limiter.throttle("a", 0).by == "database"


@needs("psycopg", "psycopg_pool")
class Sync(unittest.TestCase):
    def test_raise_allow_deny_local_and_back(self) -> None:
        for way in ("stop", "hang"):
            with self.subTest(way):
                patiently(lambda patience: self.away_and_back(way, patience))

    def away_and_back(self, way: str, patience: Patience) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            name = fresh(way)
            limiters = {
                choice: RateLimiter(
                    pool,
                    capacity=3,
                    refill=0,
                    limiter=name,
                    timeout=patience.timeout,
                    away=away,
                    metrics=patience.hook(choice),
                )
                for choice, away in CHOICES.items()
            }
            allow, deny, local, other = (limiters[choice] for choice in ("allow", "deny", "local", "other"))
            self.assertTrue(allow.consume("a"), "one of the three tokens")
            patience.there = False
            getattr(proxy, way)()
            # each finds out by itself
            with self.assertRaises(RateLimitUnavailableError) as caught:
                limiters["raise"].consume("a")
            self.assertIsInstance(caught.exception.__cause__, Exception)
            with ThreadPoolExecutor() as executor:
                list(executor.map(lambda limiter: limiter.consume("b"), (allow, deny, local, other)))
            self.assertTrue(all(limiter.stats.away for limiter in limiters.values()))
            asked = sum(limiter.stats.queries for limiter in limiters.values())
            with self.assertRaises(RateLimitUnavailableError):
                limiters["raise"].consume("a")
            self.assertEqual([allow.consume("a") for _ in range(4)], [True] * 4)
            self.assertFalse(deny.consume("a"))
            self.assertEqual([local.consume("a") for _ in range(4)], [True] * 3 + [False])
            self.assertEqual([other.consume("a") for _ in range(2)], [True, False])
            self.assertEqual(allow.throttle("a"), Result(True, None, None, 0, None, name, False, "allow"))
            self.assertEqual(local.throttle("a"), Result(False, 3, 0, None, None, name, False, "local"))
            self.assertEqual(sum(limiter.stats.queries for limiter in limiters.values()), asked, "at once")

            proxy.start()
            for choice, limiter in limiters.items():
                until(lambda: not limiter.stats.away, f"{choice} is back")
            patience.there = True
            # what was decided here took nothing
            self.assertTrue(limiters["raise"].consume("a"))
            self.assertEqual(deny.throttle("a").by, "database")
            self.assertFalse(local.consume("a"), "three tokens have been taken")
            for choice, limiter in limiters.items():

                def told() -> list[str]:
                    return [event for who, event in patience.events if who == choice and event in ("away", "back")]

                # the thread that found it back says so at last
                until(lambda: len(told()) >= 2, f"{choice}: the hook is told")
                limiter.close()
                self.assertEqual(told(), ["away", "back"], f"{choice}: the hook is told once")

    def test_without_a_hook_the_log_says_it(self) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            limiter = RateLimiter(pool, capacity=3, refill=0, limiter=fresh("logged"), timeout=1, away="allow")
            proxy.stop()
            with self.assertLogs("ratelimit_postgresql", "WARNING") as logs:
                self.assertTrue(limiter.consume("a"))
            self.assertRegex(logs.output[0], 'the database of limiter "logged .*" is away: ')
            self.assertTrue(limiter.consume("a"))
            limiter.close()

    def test_a_connection_that_hangs_is_closed(self) -> None:
        with Proxy() as proxy, new_pool(proxy.host, max_size=1) as pool:
            limiter = RateLimiter(pool, capacity=3, refill=0, limiter=fresh("room"), timeout=0.3, away="allow")
            until(lambda: decides(limiter), "the database decides")
            proxy.hang()
            began = time.monotonic()
            self.assertTrue(limiter.consume("a"))
            self.assertTrue(0.25 < time.monotonic() - began < AMPLE)
            proxy.start()
            until(lambda: decides(limiter), "it is back")
            limiter.close()

    def test_a_connection_that_hangs_is_not_used_again(self) -> None:
        import psycopg

        with Proxy() as proxy, psycopg.connect(conninfo(proxy.host)) as conn:
            limiter = RateLimiter(conn, capacity=3, refill=0, limiter=fresh("one"), timeout=0.3, away="deny")
            limiter.consume("a")
            proxy.hang()
            self.assertFalse(limiter.consume("a"))
            self.assertTrue(conn.closed, "or the next call would get this one's answer")
            limiter.close()

    def test_an_error_of_some_calls_does_not_send_the_others_away(self) -> None:
        schema = fresh("slow").replace(" ", "_")
        sql(
            f"""CREATE SCHEMA {schema}; CREATE FUNCTION {schema}.rl_consume(text, float8, float8, float8, text) RETURNS boolean
            LANGUAGE sql AS $$SELECT pg_sleep(5); SELECT true$$"""
        )
        self.addCleanup(sql, f"DROP SCHEMA {schema} CASCADE")
        with new_pool(options="-c statement_timeout=50") as pool:
            late = RateLimiter(pool, capacity=3, refill=0, timeout=AMPLE, away="deny", schema=schema)
            self.assertFalse(late.consume("a"), "cancelled by statement_timeout")
            self.assertEqual((late.stats.away, late.stats.errors), (False, 1))

    def test_slots_and_reservations(self) -> None:
        patiently(self.slots_and_reservations)

    def slots_and_reservations(self, patience: Patience) -> None:
        with Proxy() as proxy, new_pool(proxy.host) as pool:
            allow, deny, raises = (
                RateLimiter(
                    pool,
                    slots=1,
                    limiter=fresh("away"),
                    timeout=patience.timeout,
                    away=away,
                    metrics=patience.hook(away),
                )
                for away in ("allow", "deny", "raise")
            )
            held = allow.acquire("a")
            patience.there = False
            proxy.stop()
            free = allow.acquire("a")
            self.assertEqual((free.id, free.release(), free.renew()), (0, True, True))
            self.assertIsNone(deny.acquire("a"))
            with self.assertRaises(RateLimitUnavailableError):
                raises.acquire("a")
            with self.assertRaises(RateLimitUnavailableError, msg="it is not known whether it is free"):
                held.release()
            proxy.start()
            until(lambda: not allow.stats.away, "it is back")
            patience.there = True
            self.assertTrue(held.release())
            for limiter in (allow, deny, raises):
                limiter.close()


class Async(AsyncTestCase):
    async def test_raise_allow_deny_local_and_back(self) -> None:
        for make in POOLS:
            for way in ("stop", "hang"):
                with self.subTest(f"{make.__name__}, {way}"):
                    await async_patiently(lambda patience: self.away_and_back(make, way, patience))

    async def away_and_back(self, make: Any, way: str, patience: Patience) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = stack.enter_context(Proxy())
            db = await make(stack, proxy.host)
            name = fresh(way)
            limiters = {
                choice: AsyncRateLimiter(
                    db,
                    capacity=3,
                    refill=0,
                    limiter=name,
                    timeout=patience.timeout,
                    away=away,
                    metrics=patience.hook(choice),
                )
                for choice, away in CHOICES.items()
            }
            allow, deny, local, other = (limiters[choice] for choice in ("allow", "deny", "local", "other"))
            self.assertTrue(await allow.consume("a"), "one of the three tokens")
            patience.there = False
            getattr(proxy, way)()
            answers = await asyncio.gather(
                *(limiter.consume("b") for limiter in limiters.values()), return_exceptions=True
            )
            self.assertIsInstance(answers[0], RateLimitUnavailableError)
            self.assertTrue(all(limiter.stats.away for limiter in limiters.values()))
            asked = sum(limiter.stats.queries for limiter in limiters.values())
            with self.assertRaises(RateLimitUnavailableError):
                await limiters["raise"].consume("a")
            self.assertEqual(await asyncio.gather(*(allow.consume("a") for _ in range(4))), [True] * 4)
            self.assertFalse(await deny.consume("a"))
            self.assertEqual([await local.consume("a") for _ in range(4)], [True] * 3 + [False])
            self.assertEqual([await other.consume("a") for _ in range(2)], [True, False])
            self.assertEqual(sum(limiter.stats.queries for limiter in limiters.values()), asked, "at once")
            proxy.start()
            for choice, limiter in limiters.items():
                await async_until(lambda: not limiter.stats.away, f"{choice} is back")
            patience.there = True
            self.assertTrue(await limiters["raise"].consume("a"))
            self.assertEqual((await deny.throttle("a")).by, "database")
            self.assertFalse(await local.consume("a"), "three tokens have been taken")
            for limiter in limiters.values():
                await limiter.close()

    async def test_calls_that_wait_for_one_that_hangs_are_decided_with_it(self) -> None:
        for make in POOLS:
            async with contextlib.AsyncExitStack() as stack:
                proxy = stack.enter_context(Proxy())
                db = await make(stack, proxy.host, max_size=1)
                limiter = AsyncRateLimiter(db, capacity=3, refill=0, limiter=fresh("wait"), timeout=1, away="deny")

                async def decides() -> bool:
                    return (await limiter.throttle("a", 0)).by == "database"

                await async_until(decides, "the database decides")
                queries = limiter.stats.queries
                proxy.hang()
                first = asyncio.create_task(limiter.consume("a"))
                await asyncio.sleep(0.1)
                began = time.monotonic()
                answers = await asyncio.gather(first, *(limiter.consume("a") for _ in range(50)))
                self.assertEqual(answers, [False] * 51)
                self.assertLess(time.monotonic() - began, AMPLE, "one timeout, not one after the other")
                self.assertEqual(limiter.stats.queries, queries + 1, "they are not sent")
                proxy.start()
                await async_until(decides, "it is back")
                await limiter.close()

    async def test_a_connection_that_hangs_is_not_used_again(self) -> None:
        for make in (psycopg_connection, asyncpg_connection):
            if not has(make.__name__.split("_")[0]):
                continue
            async with contextlib.AsyncExitStack() as stack:
                proxy = stack.enter_context(Proxy())
                conn = await make(stack, proxy.host)
                limiter = AsyncRateLimiter(conn, capacity=3, refill=0, limiter=fresh("c"), timeout=0.3, away="deny")
                await limiter.consume("a")
                proxy.hang()
                self.assertFalse(await limiter.consume("a"))
                self.assertTrue(conn.is_closed() if make is asyncpg_connection else conn.closed)
                await limiter.close()

    async def test_a_connection_that_is_lost_stays_away(self) -> None:
        for make in (psycopg_connection, asyncpg_connection):
            if not has(make.__name__.split("_")[0]):
                continue
            async with contextlib.AsyncExitStack() as stack:
                proxy = stack.enter_context(Proxy())
                limiter = AsyncRateLimiter(
                    await make(stack, proxy.host), capacity=3, refill=0, limiter=fresh("c"), timeout=1, away="allow"
                )
                await limiter.consume("a")
                proxy.stop()
                self.assertTrue(await limiter.consume("a"))
                self.assertTrue(limiter.stats.away)
                await limiter.close()


if __name__ == "__main__":
    unittest.main()
