"""The network between the proxy and a node falls silent: packets are lost, and nothing is closed.

The proxy and the node are in network namespaces of their own for that.
"""

import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable

import psycopg

from servers import FULL, NODES, TooLate, error_of, key_on, make_servers, node_of, not_too_late, servers, until

sys.path.append(str(Path(__file__).resolve().parent.parent / "regions"))
from network import Link  # noqa: E402

# seconds, besides away_after
SLACK = 1.0


class Silent(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        make_servers()
        cls.key = key_on("n3", "silent")
        cls.others = [key_on(node, "silent") for node in NODES[:2]]
        cls.link = Link(0, 0)
        if not cls.link.how:
            cls.link.close()
            raise unittest.SkipTest(f"there are no network namespaces here ({cls.link.why})")
        cls.node = servers["n3"]
        cls.proxy = servers["proxy"]
        here, there = cls.link.regions
        with open(cls.node.data / "pg_hba.conf", "a") as hba:
            hba.write("host all all 10.19.0.0/24 trust\n")
        cls.before = cls.node.location()
        cls.proxy.stop()
        cls.node.stop()
        cls.node.start("-c listen_addresses=10.19.0.2", prefix=there)
        cls.proxy.start(prefix=here)
        cls.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = 'n3'", f"host=10.19.0.2 port={cls.node.port} dbname=postgres")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.proxy.stop()
        cls.node.stop()
        cls.node.start()
        cls.proxy.start()
        cls.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = 'n3'", cls.before)
        cls.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error', away_after = '3s'")
        cls.link.close()

    def silence(self, away_after: int, on_error: str = "deny") -> None:
        self.away_after = away_after
        self.proxy.ask("UPDATE rate_limit_proxy SET on_error = %s, away_after = %s", on_error, f"{away_after} s")

    def tearDown(self) -> None:
        self.link.lose(0)
        until(lambda: self.proxy.one("SELECT rl_consume(%s, 1e6, 0)", self.key))

    def took(self, call: Callable[[], Any]) -> float:
        """How long a call takes, which has to end after away_after, or before it if the connection was known to be lost."""
        began = time.monotonic()
        call()
        took = time.monotonic() - began
        self.in_time(took, self.away_after + SLACK)
        return took

    def in_time(self, took: float, most: float) -> None:
        if took >= most:
            raise TooLate(f"{took:.2f} s, not less than {most}")

    @not_too_late
    def test_a_connection_in_use(self) -> None:
        for away_after in (1, 3) if FULL else (1,):
            self.silence(away_after)
            with self.proxy.connect() as session:
                session.execute("SET client_min_messages = error")
                consume = "SELECT rl_consume(%s, 1e6, 0)"
                self.assertEqual(session.execute(consume, [self.key]).fetchone(), (True,))
                self.link.lose(1)
                times = []
                # the open connection, and then one that cannot be made
                for _ in range(3):
                    times.append(self.took(lambda: self.assertEqual(session.execute(consume, [self.key]).fetchone(), (False,))))
                self.assertGreater(min(times), away_after - 0.5)
                # others do not notice, also in the same session
                for key in self.others:
                    began = time.monotonic()
                    self.assertEqual(session.execute(consume, [key]).fetchone(), (True,))
                    self.in_time(time.monotonic() - began, SLACK)
                # some of the keys of a call, and the views
                self.took(lambda: self.assertEqual(
                    session.execute("SELECT rl_consume_each(%s::text[], 1e6, 0)", [[self.key, *self.others]]).fetchone(), ([False, True, True],)))
                self.took(lambda: self.assertEqual(error_of("proxy", "TABLE rate_limit_status")[0], "XX000"))
                self.took(lambda: self.assertEqual(error_of("proxy", "SELECT rl_settle(1, 1)")[0], "08006"))
                self.link.lose(0)
                until(lambda: session.execute(consume, [self.key]).fetchone() == (True,))
            print(f"# silent network, away_after {away_after} s: calls are answered after {min(times):.2f} to {max(times):.2f} s", flush=True)

    @not_too_late
    def test_while_a_call_is_under_way(self) -> None:
        """The node has got the call, and its answer is lost."""
        self.silence(1)
        key = next(f"slot{i}" for i in range(1000) if node_of(f"slot{i}") == "n3")
        ticket = self.proxy.one("SELECT rl_acquire(%s, 1, hold => '1 hour')", key)
        said: list[Any] = []
        times: list[float] = []

        def wait() -> None:
            began = time.monotonic()
            said.append(self.proxy.one("SELECT rl_acquire(%s, 1, hold => '1 s', timeout => '20 s')", key))
            times.append(time.monotonic() - began)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: self.node.one("SELECT count(*) FROM rate_limit_slots WHERE state = 'waiting'"))
        self.link.lose(1)
        waiting.join()
        self.link.lose(0)
        until(lambda: self.node.one("SELECT rl_release(%s)", ticket))
        self.assertEqual(said, [None])
        # nothing is sent: it is keepalives that find out
        self.in_time(times[0], 1 + 1 + SLACK)

    @not_too_late
    def test_a_cancel(self) -> None:
        """PL/Proxy tells the node, over the network, that a call is cancelled.  If that fails, on_error decides."""
        self.silence(1)
        with self.proxy.connect() as session:
            session.execute("SELECT rl_consume(%s, 1e6, 0)", [self.key])
            self.link.lose(1)
            session.execute("SET statement_timeout = '300ms'")
            began = time.monotonic()
            try:
                self.assertEqual(session.execute("SELECT rl_consume(%s, 1e6, 0)", [self.key]).fetchone(), (False,))
            except psycopg.errors.QueryCanceled:
                pass
            self.in_time(time.monotonic() - began, 2 + SLACK)

    @not_too_late
    def test_an_idle_connection(self) -> None:
        """It is known to be lost when the next call comes, or that waits no longer than any other."""
        self.silence(1)
        with self.proxy.connect() as session:
            session.execute("SET client_min_messages = error")
            self.assertEqual(session.execute("SELECT rl_consume(%s, 1e6, 0)", [self.key]).fetchone(), (True,))
            self.link.lose(1)
            # the kernel gives it up
            sockets = [*self.link.regions[0], "ss", "-Htn", "dst", "10.19.0.2"]
            until(lambda: not subprocess.run(sockets, capture_output=True, check=True).stdout)
            self.took(lambda: self.assertEqual(session.execute("SELECT rl_consume(%s, 1e6, 0)", [self.key]).fetchone(), (False,)))
