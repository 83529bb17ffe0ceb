"""PgBouncer in transaction mode: between applications and the proxy, and between the proxy and nodes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import unittest
from pathlib import Path
from typing import Any

import psycopg

import document
from servers import NODES, WORK, Server, TooLate, error_of, key_on, make_servers, move, node_of, not_too_late, servers, until
from test_3_exact import Callers

PGBOUNCER = os.environ.get("RATELIMIT_PGBOUNCER")


class Pooler:
    """PgBouncer, with settings but for where it listens and who may connect."""

    def __init__(self, port: int, settings: str) -> None:
        self.port = port
        ini = WORK / f"pgbouncer.{port}.ini"
        users = WORK / f"pgbouncer.{port}.users"
        users.write_text("".join(f'"{name}" ""\n' for name in ("postgres", "app", "ratelimit_proxy")))
        for name, value in [("listen_port", port), ("unix_socket_dir", WORK), ("auth_type", "trust"), ("auth_file", users)]:
            settings = re.sub(rf"^{name} = .*\n", "", settings, flags=re.M) + f"{name} = {value}\n"
        ini.write_text(settings)
        with open(WORK / f"pgbouncer.{port}.log", "w") as log:
            self.process = subprocess.Popen([str(PGBOUNCER), str(ini)], stdout=log, stderr=log)
        until(self.listens)

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(WORK / f".s.PGSQL.{self.port}")) == 0

    def connect(self, database: str, user: str = "app", **more: Any) -> psycopg.Connection[Any]:
        # PgBouncer may give each transaction another session, which has not prepared the statement
        return psycopg.connect(host=str(WORK), port=self.port, user=user, dbname=database, autocommit=True, prepare_threshold=None, **more)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def processes(server: Server) -> list[int]:
    postmaster = server.pid()
    return [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]


@unittest.skipUnless(PGBOUNCER, "PgBouncer cannot be had")
class InFront(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()
        self.pooler = Pooler(6432, f"""
[databases]
limits = host={WORK} port={servers["proxy"].port} dbname=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 2
""")

    def tearDown(self) -> None:
        self.pooler.close()

    def test_exact_with_two_sessions(self) -> None:
        keys = [key_on(node, f"front{i}-") for node in NODES for i in range(2)]
        callers = Callers(keys, 40, threads=8, connect=lambda: self.pooler.connect("limits"))
        until(lambda: callers.calls > 400)
        # this is what it is for: 8 callers, and 2 connections to each node, once those of other tests are gone
        for node in NODES:
            until(lambda: servers[node].one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'ratelimit_proxy'") <= 2)
        until(lambda: sum(callers.allowed.values()) >= 40 * len(keys))
        callers.end()
        self.assertEqual(set(callers.allowed.values()), {40}, callers.allowed)

    def test_the_gateway_is_the_callers(self) -> None:
        for name in ("door-1", "door-2"):
            with self.pooler.connect("limits", application_name=name) as session:
                for node in NODES:
                    session.execute("SELECT rl_consume(%s, 1, 0, 2, 'doors')", [key_on(node, "d", "doors")])
        rows = servers["proxy"].ask("SELECT gateway_name, sum(count)::int FROM rate_limit_pending WHERE limiter = 'doors' GROUP BY 1 ORDER BY 1")
        self.assertEqual(rows, [("door-1", 3), ("door-2", 3)])


@unittest.skipUnless(PGBOUNCER, "PgBouncer cannot be had")
class InFrontOfNodes(unittest.TestCase):
    """As the document has it: on the proxy's machine.

    Its timeouts end calls to a node that hangs; those of other tests are longer, as a slow machine would be one.
    """

    @classmethod
    def setUpClass(cls) -> None:
        make_servers()
        cls.proxy = servers["proxy"]
        settings = re.sub(r"host=(\w+)\.internal", lambda m: f"host={WORK} port={servers[m.group(1)].port}", document.settings("PgBouncer"))
        cls.settings = settings + "default_pool_size = 2\n"
        cls.pooler = Pooler(6433, re.sub(r"(timeout = )2$", r"\g<1>60", cls.settings, flags=re.M))
        cls.through(cls.pooler)

    @classmethod
    def through(cls, pooler: Pooler) -> None:
        """The proxy reaches nodes through it."""
        for node in NODES:
            cls.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = %s", f"host={WORK} port={pooler.port} dbname={node}", node)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
        for node in NODES:
            cls.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = %s", servers[node].location(), node)
        cls.pooler.close()

    def test_exact_and_moved_under_load(self) -> None:
        keys = [key_on(node, f"behind{i}-") for node in NODES for i in range(2)]
        callers = Callers(keys, 100, threads=6)
        for key in keys:
            before = node_of(key)
            target = next(name for name in NODES if name != before)
            move(key, target)
            self.assertEqual(node_of(key), target)
        until(lambda: sum(callers.allowed.values()) >= 100 * len(keys))
        callers.end()
        self.assertEqual(set(callers.allowed.values()), {100}, callers.allowed)
        for node in NODES:
            # once those of other tests are gone
            until(lambda: servers[node].one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'ratelimit_proxy'") <= 2)

    def test_gateways_share_a_connection(self) -> None:
        key = key_on("n1", "shared", "shared")
        with self.proxy.connect(application_name="one") as one, self.proxy.connect(application_name="two") as two:
            for session in (one, two, one):
                session.execute("SELECT rl_consume(%s, 1, 0, 2, 'shared')", [key])
        rows = self.proxy.ask("SELECT gateway_name, sum(count)::int FROM rate_limit_pending WHERE limiter = 'shared' GROUP BY 1 ORDER BY 1")
        self.assertEqual(rows, [("one", 2), ("two", 1)])

    def test_what_is_held_for_a_time(self) -> None:
        ticket = self.proxy.one("SELECT rl_acquire('pooled', 1, hold => '1 hour')")
        self.assertTrue(self.proxy.one("SELECT rl_renew(%s, '2 hours')", ticket))
        self.assertTrue(self.proxy.one("SELECT rl_release(%s)", ticket))
        self.assertEqual(self.proxy.one("SELECT rl_settle(rl_reserve('pooled', 10, 0, 4), 1)"), 9)
        self.assertEqual(self.proxy.one("SELECT rl_wait('pooled2', 1, 100) AND rl_wait('pooled2', 1, 100)"), True)

    @not_too_late
    def test_a_node_that_hangs(self) -> None:
        """Its processes are stopped, and its kernel answers."""
        pooler = Pooler(6434, self.settings)
        try:
            self.through(pooler)
            self.hangs()
        finally:
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
            self.through(self.pooler)
            pooler.close()

    def hangs(self) -> None:
        key, other = key_on("n3", "hangs"), key_on("n1", "hangs")
        self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'deny'")
        with self.proxy.connect() as session:
            session.execute("SET client_min_messages = error")

            def consume(key: str) -> bool:
                row = session.execute("SELECT rl_consume(%s, 1e6, 0)", [key]).fetchone()
                return bool(row and row[0])

            until(lambda: consume(key))
            stopped = processes(servers["n3"])
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            times = []
            others = []
            try:
                for _ in range(6):
                    began = time.monotonic()
                    self.assertFalse(consume(key))
                    times.append(time.monotonic() - began)
                    others.append(consume(other))
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
            until(lambda: error_of("proxy", f"SELECT rl_consume('{key}', 1e6, 0)") == ("no error",))
            # after a failure, PgBouncer does not try again for server_login_retry
            if max(times) >= 2 + 2 or min(times) >= 0.2 or not all(others):
                raise TooLate(f"{times}, {others}")
        print("# a node that hangs, behind PgBouncer: calls are answered after " + ", ".join(f"{t:.2f}" for t in times) + " s", flush=True)
