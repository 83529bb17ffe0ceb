"""However many callers, nodes and moves there are, a key has its tokens and no more."""

from __future__ import annotations

import random
import threading
import time
import unittest
from typing import Any, Callable

import psycopg

from servers import MOVE_WAIT, NODES, SEED, error_of, key_on, make_servers, move, node_of, servers, until


def in_threads(n: int, work: Callable[[int], None]) -> None:
    failed: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class Callers:
    """Threads that call some keys at random, and count what each was allowed."""

    def __init__(self, keys: list[str], capacity: int, refill: float = 0, threads: int = 6,
                 connect: Callable[[], psycopg.Connection[Any]] | None = None) -> None:
        self.connect = connect or servers["proxy"].connect
        self.keys = keys
        self.capacity = capacity
        self.refill = refill
        self.allowed = dict.fromkeys(keys, 0)
        self.calls = 0
        self.errors = 0
        self.longest = 0.0
        self.ended = False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.call, args=(i,)) for i in range(threads)]
        self.failed: list[BaseException] = []
        for thread in self.threads:
            thread.start()

    def call(self, i: int) -> None:
        chance = random.Random(SEED + i)
        try:
            with self.connect() as connection:
                while not self.ended:
                    began = time.monotonic()
                    if chance.random() < 0.2:
                        keys = chance.choices(self.keys, k=5)
                        query = "SELECT unnest(rl_consume_each(%s::text[], %s, %s))"
                        answers = [row[0] for row in connection.execute(query, [keys, self.capacity, self.refill])]
                    else:
                        keys = [chance.choice(self.keys)]
                        answers = list(connection.execute("SELECT rl_consume(%s, %s, %s)", [keys[0], self.capacity, self.refill]).fetchone() or [])
                    took = time.monotonic() - began
                    with self.lock:
                        self.calls += 1
                        self.longest = max(self.longest, took)
                        for key, answer in zip(keys, answers, strict=True):
                            self.allowed[key] += answer
        except BaseException as error:
            self.failed.append(error)

    def end(self) -> None:
        self.ended = True
        for thread in self.threads:
            thread.join()
        if self.failed:
            raise self.failed[0]


class Exact(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()
        self.proxy = servers["proxy"]

    def partition(self, key: str) -> int:
        return int(self.proxy.one("SELECT _rl_partition(%s, 'default')", key))

    def other(self, node: str) -> str:
        return next(name for name in NODES if name != node)

    def test_every_token_once(self) -> None:
        keys = [key_on(node, f"once{i}-") for node in NODES for i in range(4)]
        callers = Callers(keys, 40)
        until(lambda: callers.calls > 800)
        callers.end()
        self.assertEqual(set(callers.allowed.values()), {40}, callers.allowed)

    def test_moved_under_load(self) -> None:
        """Each key's partition is moved twice while the key is called, until its last token is gone."""
        keys = [key_on(node, f"moved{i}-") for node in NODES for i in range(2)]
        callers = Callers(keys, 400)
        moved = 0
        for key in keys * 2:
            before = node_of(key)
            moved += move(key, self.other(before))
            self.assertNotEqual(node_of(key), before)
        self.assertGreater(moved, 0)
        until(lambda: callers.calls > 1000 and sum(callers.allowed.values()) >= 400 * len(keys))
        callers.end()
        self.assertEqual(set(callers.allowed.values()), {400}, callers.allowed)
        # what a move left behind is nowhere
        for key in keys:
            self.assertEqual([node for node in NODES if servers[node].one("SELECT count(*) FROM rl_status(%s)", key)], [node_of(key)])

    def test_a_bucket_is_moved_as_it_is(self) -> None:
        key = key_on("n1", "asis")
        queries = [("SELECT rl_consume(%s, 1e12, 0, 0.1)", "SELECT tokens FROM rl_status(%s) WHERE period IS NULL"),
                   ("SELECT rl_consume(%s, 1e9, 1e-7, 123456789, 'default')", "SELECT round(tokens) FROM rl_status(%s) WHERE period IS NULL"),
                   ("SELECT rl_penalize(%s, 10, 0, 1e6)", "SELECT tokens FROM rl_status(%s) WHERE period IS NULL"),
                   ("SELECT rl_consume_period(%s, 100, 'year', 0.123456789)", "SELECT tokens, period, full_at FROM rl_status(%s) WHERE period IS NOT NULL"),
                   ("SELECT rl_count(%s, 'year', 7)", "SELECT tokens, period FROM rl_status(%s) WHERE period IS NOT NULL"),
                   ("SELECT rl_block(%s, '1 day')", "SELECT date_trunc('minute', blocked_until + '30 s') FROM rl_status(%s) WHERE blocked_until IS NOT NULL")]
        for change, look in queries:
            self.proxy.ask(change, key)
            before = self.proxy.ask(look, key)
            self.assertTrue(before, look)
            self.proxy.ask("CALL rl_move_partition(%s, %s)", self.partition(key), self.other(node_of(key)))
            self.assertEqual(self.proxy.ask(look, key), before, change)
        self.proxy.ask("SELECT rl_unblock(%s)", key)

    def test_never_above_what_refills(self) -> None:
        """A bucket that refills gets nothing while it is between two nodes, and loses nothing else."""
        key = key_on("n2", "refills")
        began = time.monotonic()
        allowed = 0
        with self.proxy.connect() as connection:
            for _ in range(3):
                for _ in range(30):
                    row = connection.execute("SELECT count(*) FILTER (WHERE rl_consume(%s, 50, 20)) FROM generate_series(1, 3)", [key]).fetchone()
                    allowed += row[0] if row else 0
                self.proxy.ask("CALL rl_move_partition(%s, %s)", self.partition(key), self.other(node_of(key)))
        self.assertLessEqual(allowed, 50 + 20 * (time.monotonic() - began))
        self.assertGreaterEqual(allowed + self.proxy.one("SELECT (rl_peek(%s, 50, 20)).remaining", key), 50)

    def test_calls_wait_for_a_move_and_then_on_error_decides(self) -> None:
        key = key_on("n3", "waits")
        partition = self.partition(key)
        node = servers[node_of(key)]
        moves = node.one("SELECT moves FROM rate_limit_node_partitions WHERE partition = %s", partition)
        # as a move that has failed halfway
        node.ask("DELETE FROM rate_limit_node_partitions WHERE partition = %s", partition)
        self.proxy.ask("UPDATE rate_limit_proxy SET move_wait = '300ms'")
        for setting, answer in [("allow", True), ("deny", False)]:
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = %s", setting)
            began = time.monotonic()
            self.assertEqual(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key), answer)
            self.assertEqual(self.proxy.one("SELECT rl_consume_each(ARRAY[%s, %s], 1, 0)", key, key_on("n1", "fine" + setting)), [answer, True])
            self.assertGreater(time.monotonic() - began, 0.6)
            self.assertLess(time.monotonic() - began, 9)
        self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
        self.assertEqual(error_of("proxy", f"SELECT rl_consume('{key}', 1, 0)")[:2], ("08006", "could not decide: its partition is being moved"))
        # a call that waits is decided when the move is over
        self.proxy.ask("UPDATE rate_limit_proxy SET move_wait = '60s'")
        said: list[bool] = []
        waiting = threading.Thread(target=lambda: said.append(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key)))
        waiting.start()
        until(lambda: self.proxy.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        self.proxy.ask("CALL rl_move_partition(%s, %s)", partition, self.other(node.name))
        waiting.join()
        self.assertEqual(said, [True])
        self.assertEqual(self.proxy.one("SELECT moves FROM rate_limit_partitions WHERE partition = %s", partition), moves + 1)
        self.proxy.ask("UPDATE rate_limit_proxy SET move_wait = %s", MOVE_WAIT)

    def test_a_move_that_failed_is_finished_or_undone(self) -> None:
        key = key_on("n1", "failed")
        partition = self.partition(key)
        seed, partitions = self.proxy.ask("SELECT seed, partitions FROM rate_limit_proxy")[0]
        self.proxy.ask("SELECT rl_consume(%s, 5, 0)", key)
        for target in ("n2", "n3", None):
            source = servers[node_of(key)]
            moves = self.proxy.one("SELECT moves FROM rate_limit_partitions WHERE partition = %s", partition)
            # the source has left it, and the target has it; that is not recorded
            other = servers[target or self.other(source.name)]
            source.ask("SELECT rl_node_leave(%s, %s, %s)", partition, partitions, seed)
            buckets = source.one("SELECT rl_node_export(%s, %s, %s)::text", partition, partitions, seed)
            other.ask("SELECT rl_node_import(%s, %s, %s, %s, %s)", partition, partitions, seed, moves + 1, buckets)
            self.proxy.ask("CALL rl_move_partition(%s, %s)", partition, target or source.name)
            self.assertEqual(node_of(key), target or source.name)
            self.assertEqual([node for node in NODES if servers[node].one("SELECT count(*) FROM rl_status(%s)", key)], [node_of(key)])
            self.assertTrue(self.proxy.one("SELECT rl_consume(%s, 5, 0)", key))
        # what the undone move had brought there is out of date
        self.proxy.ask("CALL rl_move_partition(%s, %s)", partition, other.name)
        self.assertEqual(self.proxy.ask("SELECT rl_consume(%s, 5, 0) FROM generate_series(1, 2)", key), [(True,), (False,)])

    def test_a_table_from_an_older_dump_moves_nothing(self) -> None:
        key = key_on("n1", "older")
        partition = self.partition(key)
        before = self.proxy.ask("SELECT node, moves FROM rate_limit_partitions WHERE partition = %s", partition)[0]
        for target in ("n2", "n1", "n2"):
            self.proxy.ask("CALL rl_move_partition(%s, %s)", partition, target)
        after = self.proxy.ask("SELECT node, moves FROM rate_limit_partitions WHERE partition = %s", partition)[0]
        self.proxy.ask("SELECT rl_consume(%s, 5, 0, 3)", key)
        write = "UPDATE rate_limit_partitions SET node = %s, moves = %s WHERE partition = %s"
        self.proxy.ask(write, *before, partition)
        try:
            for target in NODES:
                state, message, detail, _ = error_of("proxy", f"CALL rl_move_partition({partition}, '{target}')")
                self.assertEqual(state, "55000", message)
                self.assertIn('Node "n2" has the partition', str(detail))
        finally:
            self.proxy.ask(write, *after, partition)
        self.assertEqual(self.proxy.one("SELECT remaining FROM rl_peek(%s, 5, 0, 0)", key), 2)

    def test_a_transaction_that_has_an_old_snapshot_finds_the_key(self) -> None:
        key, stays = key_on("n1", "snapshot"), key_on("n1", "stays")
        with self.proxy.connect() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.assertEqual(connection.execute("SELECT rl_consume(%s, 3, 0)", [key]).fetchone(), (True,))
            self.proxy.ask("CALL rl_move_partition(%s, 'n2')", self.partition(key))
            self.assertEqual(connection.execute("SELECT rl_consume(%s, 3, 0)", [key]).fetchone(), (True,))
            self.assertEqual(connection.execute("SELECT rl_consume_each(ARRAY[%s, %s, %s], 3, 0)", [stays, key, key]).fetchone(), ([True, True, False],))

    def test_held_slots_keep_a_partition(self) -> None:
        # those of other tests
        until(lambda: self.proxy.one("SELECT count(*) = 0 FROM rate_limit_slots"))
        key = key_on("n2", "held")
        ticket = self.proxy.one("SELECT rl_acquire(%s, 1, hold => '1 hour')", key)
        move = f"CALL rl_move_partition({self.partition(key)}, 'n3')"
        self.assertEqual(error_of("proxy", move)[0], "55006")
        self.assertTrue(self.proxy.one("SELECT rl_renew(%s, '1 hour')", ticket))
        self.assertTrue(self.proxy.one("SELECT rl_consume(%s, 1, 0)", key))
        self.assertTrue(self.proxy.one("SELECT rl_release(%s)", ticket))
        self.proxy.ask(move)
        self.assertEqual(node_of(key), "n3")

    def test_a_call_that_is_being_decided_is_waited_for(self) -> None:
        """The node does not leave a partition while any call is being decided."""
        until(lambda: self.proxy.one("SELECT count(*) = 0 FROM rate_limit_slots"))
        key = key_on("n2", "waited")
        node = node_of(key)
        other = self.proxy.one("SELECT partition FROM rate_limit_partitions WHERE node = %s AND partition <> %s", node, self.partition(key))
        ticket = self.proxy.one("SELECT rl_acquire(%s, 1, hold => '1 hour')", key)
        got: list[int] = []
        waiting = threading.Thread(target=lambda: got.append(self.proxy.one("SELECT rl_acquire(%s, 1, hold => '1 hour', timeout => '60 s')", key)))
        waiting.start()
        until(lambda: servers[node].one("SELECT count(*) FROM rate_limit_slots WHERE state = 'waiting'"))
        self.assertEqual(error_of("proxy", f"CALL rl_move_partition({other}, '{self.other(node)}')")[0], "55P03")
        self.assertEqual(self.proxy.one("SELECT node FROM rate_limit_partitions WHERE partition = %s", other), node)
        self.assertTrue(self.proxy.one("SELECT rl_release(%s)", ticket))
        waiting.join()
        self.assertTrue(self.proxy.one("SELECT rl_release(%s)", got[0]))
        self.proxy.ask(f"CALL rl_move_partition({other}, '{self.other(node)}')")
