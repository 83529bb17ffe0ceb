"""A node that is lost: its callers are answered in time, the others do not notice, and it comes back.

Servers are reached by their sockets, so a node that is killed refuses connections at once.  One
that falls silent is a port where nobody answers.
"""

import socket
import time
import unittest
from typing import Callable

import psycopg

from servers import NODES, PORTS, Server, error_of, key_on, make_servers, node_of, servers, until


class Lost(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()
        self.proxy = servers["proxy"]

    def tearDown(self) -> None:
        self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")

    def test_killed_and_back(self) -> None:
        keys = {node: key_on(node, "kill") for node in NODES}
        lost = node_of(keys["n2"])
        others = [key for key in keys.values() if key != keys[lost]]
        with self.proxy.connect() as connection:

            def consume(key: str) -> bool:
                row = connection.execute("SELECT rl_consume(%s, 1000, 0)", [key]).fetchone()
                return bool(row and row[0])

            self.assertTrue(all(consume(key) for key in keys.values()))
            servers[lost].kill()
            began = time.monotonic()
            code, message, *_ = error_of("proxy", f"SELECT rl_consume('{keys[lost]}', 1000, 0)")
            self.assertEqual((code, message), ("08006", f'could not decide: node "{lost}" is away'))
            for setting, answer in [("allow", True), ("deny", False)]:
                self.proxy.ask("UPDATE rate_limit_proxy SET on_error = %s", setting)
                for _ in range(5):
                    # the session had a connection to the node
                    self.assertEqual(consume(keys[lost]), answer)
                    self.assertTrue(all(consume(key) for key in others))
                answers = self.proxy.one("SELECT rl_consume_each(%s::text[], 1000, 0)", [keys[lost], *others])
                self.assertEqual(answers, [answer, True, True])
                row = self.proxy.ask("SELECT (rl_throttle(%s, 7, 0)).*", keys[lost])[0]
                self.assertEqual(row[:6], (answer, 7, None, None, None, "default"))
                answers = self.proxy.one("SELECT array_agg(r.allowed) FROM unnest(rl_throttle_each(%s::text[], ARRAY[1000, 1000, 1000], ARRAY[0, 0, 0])) r",
                                         [keys[lost], *others])
                self.assertEqual(answers, [answer, True, True])
                self.assertEqual(self.proxy.one("SELECT rl_consume_upto(%s, 7, 0, 3.5)", keys[lost]), 3 if answer else 0)
                self.assertEqual(self.proxy.one("SELECT rl_wait(%s, 7, 0)", keys[lost]), answer)
                self.assertEqual(self.proxy.one("SELECT rl_reserve(%s, 7, 0, 1)", keys[lost]), 0 if answer else None)
                self.assertEqual(self.proxy.one("SELECT hits FROM rl_count(%s, 'year')", keys[lost]), 0 if answer else float("inf"))
            self.assertEqual(error_of("proxy", f"SELECT rl_enforce('{keys[lost]}', 7, 0)")[0], "PT429")
            # of more than 30 calls none waits for away_after
            self.assertLess(time.monotonic() - began, 30)
            # what is done to a bucket is never said to be done
            self.assertEqual(error_of("proxy", f"SELECT rl_reset('{keys[lost]}')")[0], "08006")
            self.assertEqual(error_of("proxy", "SELECT * FROM rate_limit_status")[0], "XX000")

            servers[lost].start_again()
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
            until(lambda: self.decides(consume, keys[lost]))
            self.assertTrue(all(consume(key) for key in keys.values()))

    def decides(self, consume: Callable[[str], bool], key: str) -> bool:
        try:
            return consume(key)
        except psycopg.Error:
            return False

    def test_silent_on_the_network(self) -> None:
        """A machine that is switched off says nothing: the call ends after away_after."""
        with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
            # a queue of connections that nobody takes, and that is full, answers no more of them
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            key = key_on("n3", "silent")
            node = node_of(key)
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'deny', away_after = '1s'")
            self.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = %s", f"host=127.0.0.1 port={port} dbname=postgres", node)
            try:
                began = time.monotonic()
                self.assertFalse(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key))
                took = time.monotonic() - began
                self.assertTrue(0.5 < took < 10, took)
            finally:
                self.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = %s", servers[node].location(), node)
                self.proxy.ask("UPDATE rate_limit_proxy SET away_after = '3s'")
            self.assertTrue(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key))

    def test_the_standby_takes_over(self) -> None:
        """It has its own state: every bucket is full.  The node's partitions and policies are its own, too."""
        node = servers["n1"]
        key = key_on("n1", "standby")
        self.proxy.ask("SELECT rl_consume(%s, 5, 0, 5)", key)
        standby = Server("n1-standby", PORTS["n1-standby"], of=node)
        until(lambda: standby.one("SELECT count(*) FROM rate_limit_node_partitions") == node.one("SELECT count(*) FROM rate_limit_node_partitions"))
        with self.proxy.connect() as connection:
            self.assertEqual(connection.execute("SELECT rl_consume(%s, 5, 0)", [key]).fetchone(), (False,))
            node.kill()
            standby.ask("SELECT pg_promote()")
            self.proxy.ask("UPDATE rate_limit_nodes SET connection = %s WHERE node = 'n1'", standby.location())
            # a session that has called the lost node before
            self.assertEqual([connection.execute("SELECT rl_consume(%s, 5, 0)", [key]).fetchone() for _ in range(6)], [(True,)] * 5 + [(False,)])
            # the partition can be moved away from it
            self.proxy.ask("CALL rl_move_partition(_rl_partition(%s, 'default'), 'n2')", key)
            self.assertEqual(connection.execute("SELECT rl_consume(%s, 5, 0)", [key]).fetchone(), (False,))
        servers["n1"] = standby

    def test_without_a_standby_its_partitions_are_given_away(self) -> None:
        lost = servers["n3"]
        key = key_on("n3", "given")
        self.proxy.ask("SELECT rl_consume(%s, 1, 0)", key)
        lost.kill()
        partition = self.proxy.one("SELECT _rl_partition(%s, 'default')", key)
        self.assertNotEqual(error_of("proxy", f"CALL rl_move_partition({partition}, 'n2')"), ("no error",))
        self.proxy.ask("CALL rl_move_partition(%s, 'n2', lost => true)", partition)
        self.assertEqual(self.proxy.ask("SELECT rl_consume(%s, 1, 0) FROM generate_series(1, 2)", key), [(True,), (False,)])
        # it comes back, and gets the partition again: what it had then does not count any more
        lost.start_again()
        until(lambda: error_of("proxy", f"CALL rl_move_partition({partition}, 'n3')") == ("no error",))
        self.assertEqual(node_of(key), "n3")
        self.assertFalse(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key))
