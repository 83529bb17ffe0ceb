"""Behind PgBouncer, in transaction and in statement mode: what holds, and what SET loses.

RATELIMIT_PGBOUNCERS has the ports of two. The first one keeps no prepared statements. The second
one ignores startup parameters, and keeps prepared statements if its version can:
RATELIMIT_PGBOUNCER_KEEPS. Both listen in PGHOST, and have

    transaction, statement, session     databases that are named for their mode
    one, two                            in transaction mode, with so many connections
    gateway                             in transaction mode, with a connect_query

with 10 connections at most to the server for each role.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import psycopg
from support import AMPLE, HOST, AsyncTestCase, fresh, has, sql, until

from ratelimit_postgresql import AsyncRateLimiter, Lease, RateLimiter

PLAIN, IGNORING = (int(port) for port in os.environ["RATELIMIT_PGBOUNCERS"].split())
PORTS = [PLAIN, IGNORING] if os.environ.get("RATELIMIT_PGBOUNCER_KEEPS") else [PLAIN]
MODES = ("transaction", "statement")
CONNECTIONS = 200
MOST = 10  # connections of a pool to the server


def conninfo(database: str, port: int = PLAIN, user: str = "app", **others: str) -> str:
    return psycopg.conninfo.make_conninfo(host=HOST, port=port, dbname=database, user=user, **others)


def connect(database: str, **others: Any) -> Any:
    # what the application prepares by itself is not what is tested here
    return psycopg.connect(conninfo(database, **others), autocommit=True, prepare_threshold=None)


def value(conn: Any, query: str, *params: Any) -> Any:
    row = conn.execute(query, params).fetchone()
    return row and row[0]


async def open_psycopg(stack: contextlib.AsyncExitStack, database: str, port: int, name: str = "") -> Any:
    info = conninfo(database, port, application_name=name)
    return await stack.enter_async_context(
        await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)
    )


async def open_asyncpg(stack: contextlib.AsyncExitStack, database: str, port: int, name: str = "") -> Any:
    import asyncpg

    settings = {"application_name": name}
    conn = await asyncpg.connect(host=HOST, port=port, user="app", database=database, server_settings=settings)
    stack.callback(conn.terminate)
    return conn


OPEN = [open_psycopg, *([open_asyncpg] if has("asyncpg") else [])]


def server_connections(name: str) -> int:
    """So many connections to the server have served clients of that name last."""
    return int(sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", name)[0])


def setUpModule() -> None:
    for role in ("app", "other"):
        sql(f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    sql("GRANT EXECUTE ON FUNCTION rl_reward TO app")
    sql("GRANT pg_monitor TO app")


class Exact(AsyncTestCase):
    """200 connections of clients over 10 to the server: a bucket gives exactly what it has."""

    async def check(self, limiters: list[AsyncRateLimiter], name: str) -> None:
        answers = await asyncio.gather(*(limiter.consume("a") for limiter in limiters for _ in range(5)))
        self.assertEqual((sum(answers), len(answers)), (500, 5 * CONNECTIONS))
        results = await asyncio.gather(*(limiter.throttle("b") for limiter in limiters for _ in range(5)))
        self.assertEqual(sum(result.allowed for result in results), 500)
        self.assertEqual({result.by for result in results}, {"database"})
        self.assertIn(server_connections(name), range(1, MOST + 1))

    async def test_async(self) -> None:
        for open_one in OPEN:
            for mode in MODES:
                for port in PORTS:
                    with self.subTest(open_one.__name__, mode=mode, keeps=port == IGNORING):
                        name = fresh("pooled")
                        async with contextlib.AsyncExitStack() as stack:
                            conns = await asyncio.gather(
                                *(open_one(stack, mode, port, name) for _ in range(CONNECTIONS))
                            )
                            limiters = [
                                AsyncRateLimiter(c, capacity=500, refill=0, limiter=name, timeout=AMPLE) for c in conns
                            ]
                            await self.check(limiters, name)

    def test_threads(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                name = fresh("pooled")
                allowed: list[bool] = []
                with contextlib.ExitStack() as stack:
                    conns = [stack.enter_context(connect(mode)) for _ in range(CONNECTIONS)]
                    limiters = [RateLimiter(c, capacity=500, refill=0, limiter=name, timeout=AMPLE) for c in conns]

                    def run(own: list[RateLimiter]) -> None:
                        for _ in range(5):
                            for limiter in own:
                                allowed.append(limiter.consume("a"))

                    threads = [threading.Thread(target=run, args=(limiters[i::20],)) for i in range(20)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                self.assertEqual((sum(allowed), len(allowed)), (500, 5 * CONNECTIONS))


class Methods(AsyncTestCase):
    """All that a client does, on connections that are others each time."""

    async def on_each(
        self, check: Callable[[Callable[..., AsyncRateLimiter]], Any], prepare: Any = None, ports: Any = PORTS
    ) -> None:
        for open_one in OPEN:
            for mode in MODES:
                for port in ports:
                    with self.subTest(open_one.__name__, mode=mode, keeps=port == IGNORING):
                        async with contextlib.AsyncExitStack() as stack:
                            idle: asyncio.Queue[Any] = asyncio.Queue()
                            for _ in range(4):
                                idle.put_nowait(await open_one(stack, mode, port))

                            @contextlib.asynccontextmanager
                            async def another() -> AsyncIterator[Any]:
                                conn = await idle.get()
                                try:
                                    yield conn
                                finally:
                                    idle.put_nowait(conn)

                            await check(lambda **o: AsyncRateLimiter(another, timeout=AMPLE, prepare=prepare, **o))

    async def test_all(self) -> None:
        async def check(new: Callable[..., AsyncRateLimiter]) -> None:
            limiter = new(capacity=10, refill=0, limiter=fresh("all"))
            for _ in range(4):
                self.assertTrue(await limiter.consume("a"))
                self.assertEqual((await limiter.throttle("a")).allowed, True)
            reservation = await limiter.reserve("a", 2)
            self.assertIsNone(await limiter.reserve("a", 2))
            self.assertEqual(await reservation.settle(1), 1)
            self.assertEqual(
                await asyncio.gather(limiter.consume("a", 0.5), limiter.consume("a", 0.25), limiter.consume("a", 1)),
                [True, True, False],
            )

            slots = new(slots=2, limiter=fresh("slots"))
            held = [await slots.acquire("a"), await slots.acquire("a")]
            self.assertIsNone(await slots.acquire("a"))
            self.assertTrue(await held[0].renew(5))
            self.assertTrue(await held[0].release())
            self.assertFalse(await held[0].release())
            self.assertIsNotNone(await slots.acquire("a"))

            period = new(allowance=2, period="day", limiter=fresh("period"))
            self.assertEqual([await period.consume("a") for _ in range(3)], [True, True, False])

        await self.on_each(check)
        await self.on_each(check, prepare=False)
        # asyncpg behind a pooler that keeps what it prepares
        await self.on_each(check, prepare=True, ports=PORTS[1:])

    async def test_leases(self) -> None:
        async def check(new: Callable[..., AsyncRateLimiter]) -> None:
            name = fresh("lease")
            limiters = [new(capacity=400, refill=0, limiter=name, lease=Lease(idle=0.2)) for _ in range(2)]
            allowed = 0
            for _ in range(30):
                answers = await asyncio.gather(*(limiter.consume("a") for limiter in limiters for _ in range(10)))
                allowed += sum(answers)
            self.assertLessEqual(allowed, 400)
            for limiter in limiters:
                await limiter.close()
            [remaining] = sql("SELECT remaining FROM rl_peek('a', 400, 0, 0, %s)", name)
            self.assertEqual(allowed + remaining, 400, "what was not used is given back")

        await self.on_each(check)

    @unittest.skipUnless(has("asyncpg"), "asyncpg not installed")
    async def test_several_processes_with_asyncpg(self) -> None:
        """Its statements have numbers, which are the same in all processes."""
        name = fresh("processes")
        script = str(Path(__file__).parent / "asyncpg_process.py")
        for port in PORTS:
            args = [HOST, str(port), f"{name} {port}"]
            processes = [
                await asyncio.create_subprocess_exec(sys.executable, "-B", script, str(i), *args, stdout=asyncio.subprocess.PIPE)
                for i in range(3)
            ]
            outs = [(await process.communicate())[0].decode() for process in processes]
            self.assertEqual([process.returncode for process in processes], [0, 0, 0])
            self.assertEqual(sum(map(int, outs)), 100)


class Set(unittest.TestCase):
    """Settings of a session are those of a connection to the server, which others use next."""

    @contextlib.contextmanager
    def two(self, database: str) -> Iterator[Any]:
        with connect(database) as a, connect(database) as b:
            yield a, b

    def test_set_is_of_others_and_is_lost(self) -> None:
        show = "SELECT current_setting('ratelimit.gateway_name')"
        with self.two("one") as (a, b):
            a.execute("SET ratelimit.gateway_name = 'a'")
            self.assertEqual(value(b, show), "a", "another client's")
            b.execute("RESET ratelimit.gateway_name")
        with self.two("two") as (a, b):
            a.execute("SET ratelimit.gateway_name = 'a'")
            b.execute("BEGIN")
            self.assertEqual(value(b, show), "a")
            self.assertEqual(value(a, show), "", "not its own any more")
            b.execute("RESET ratelimit.gateway_name")
            b.execute("COMMIT")

    def test_set_local_holds_for_its_transaction(self) -> None:
        show = "SELECT current_setting('ratelimit.gateway_name')"
        with self.two("one") as (a, b):
            with a.transaction():
                a.execute("SET LOCAL ratelimit.gateway_name = 'a'")
                self.assertEqual(value(a, show), "a")
            self.assertEqual(value(b, show), "")
        with self.two("statement") as (a, b):
            with self.assertRaises(psycopg.OperationalError):
                a.execute("BEGIN")
                a.execute("SELECT 1")

    def test_application_name_is_the_gateway_of_each_client(self) -> None:
        name = fresh("gateway")
        with connect("one", application_name="api-1") as a, connect("one", application_name="api-2") as b:
            for conn, times in ((a, 2), (b, 3), (a, 4)):
                for _ in range(times):
                    self.assertFalse(value(conn, "SELECT rl_consume('k', 0, 0, 1, %s)", name))
        pending = "SELECT jsonb_object_agg(gateway_name, count) FROM rate_limit_pending WHERE limiter = %s"
        self.assertEqual(sql(pending, name)[0], {"api-1": 6, "api-2": 3})

    def test_settings_of_the_role_and_of_the_pooler_hold(self) -> None:
        sql("ALTER ROLE other SET ratelimit.gateway_name = 'of the role'")
        sql("ALTER ROLE other SET ratelimit.on_error = 'allow'")
        for mode in MODES:
            with connect(mode, user="other") as conn:
                self.assertEqual(value(conn, "SELECT current_setting('ratelimit.gateway_name')"), "of the role")
                self.assertEqual(value(conn, "SELECT current_setting('ratelimit.on_error')"), "allow")
        with connect("gateway") as conn:
            self.assertEqual(value(conn, "SELECT current_setting('ratelimit.gateway_name')"), "front")

    def test_options_are_refused_or_lost(self) -> None:
        options = "-c ratelimit.gateway_name=mine"
        with self.assertRaisesRegex(psycopg.OperationalError, "unsupported startup parameter"):
            connect("one", options=options)
        with connect("one", port=IGNORING, options=options) as conn:
            self.assertEqual(value(conn, "SELECT current_setting('ratelimit.gateway_name')"), "")


class Slots(unittest.TestCase):
    def held(self, name: str) -> int:
        return int(sql("SELECT coalesce(sum(held), 0) FROM rate_limit_slots WHERE limiter = %s", name)[0])

    def test_what_the_session_holds_is_held_by_a_connection_of_the_pooler(self) -> None:
        name = fresh("session")
        with connect("two") as a, connect("two") as b:
            ticket = value(a, "SELECT rl_acquire('k', 1, hold => 'session', limiter => %s)", name)
            with b.transaction():
                value(b, "SELECT 1")
                # b has the connection to the server that a has had
                self.assertFalse(value(a, "SELECT rl_release(%s)", ticket), "not in another session")
        self.assertEqual(self.held(name), 1, "also when the client is gone")
        with connect("two") as c:
            self.assertTrue(value(c, "SELECT rl_release(%s)", ticket), "somebody else's")

    def test_what_a_transaction_holds_is_held_until_its_end(self) -> None:
        name = fresh("transaction")
        with connect("transaction") as conn:
            with conn.transaction():
                value(conn, "SELECT rl_acquire('k', 1, limiter => %s)", name)
                self.assertEqual(self.held(name), 1)
            self.assertEqual(self.held(name), 0)
        with connect("statement") as conn:
            value(conn, "SELECT rl_acquire('k', 1, limiter => %s)", name)
            self.assertEqual(self.held(name), 0, "a statement is a transaction")

    def test_what_is_held_for_an_interval_belongs_to_no_session(self) -> None:
        for mode in MODES:
            name = fresh("interval")
            with connect(mode) as conn:
                ticket = value(conn, "SELECT rl_acquire('k', 1, hold => '30 s', limiter => %s)", name)
            self.assertEqual(self.held(name), 1)
            with connect(mode) as conn:
                self.assertTrue(value(conn, "SELECT rl_renew(%s, '30 s')", ticket))
                self.assertTrue(value(conn, "SELECT rl_release(%s)", ticket))


class Waiting(unittest.TestCase):
    def waiting(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active' AND query ~ 'rl_wait'"
        return int(sql(query)[0])

    def test_a_wait_keeps_a_connection_from_others(self) -> None:
        name = fresh("wait")
        wait = "SELECT rl_wait(%s, 1, %s, limiter => %s)"
        with connect("one") as a, connect("one") as b:
            # half a second, or more if the machine is too slow to see that
            for refill in (2, 1, 0.5, 0.25, 0.125):
                key = f"k{refill}"
                self.assertTrue(value(a, wait, key, refill, name))
                thread = threading.Thread(target=value, args=(a, wait, key, refill, name))
                thread.start()
                waits = until(lambda: self.waiting() or not thread.is_alive(), "somebody waits")
                if waits is not True:
                    break
                thread.join()
            self.assertEqual(waits, 1, "somebody waits")
            value(b, "SELECT 1")
            self.assertEqual(self.waiting(), 0, "the other one had to wait as well")
            thread.join()
            # booking does not
            value(a, "SELECT extract(epoch FROM rl_book('k', 1, 0.1, limiter => %s))::float8", name)
            began = time.monotonic()
            value(b, "SELECT 1")
            self.assertLess(time.monotonic() - began, 9)


if __name__ == "__main__":
    unittest.main()
