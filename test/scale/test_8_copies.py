"""Copies of a proxy: its dump, restored, and its standby."""

from __future__ import annotations

import subprocess
import unittest

import document
from servers import FULL, MOVE_WAIT, NODES, PORTS, WORK, Server, error_of, key_on, make_servers, node_of, servers, until

USER_MAPPING = next(block.sql for block in document.blocks() if block.where == "the restored proxy")
TABLES = ["rate_limit_proxy", "rate_limit_nodes", "rate_limit_partitions", "rate_limit_policies", "rate_limit_exceptions"]


def shell(command: str) -> None:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    if done.returncode or "ERROR" in done.stderr:
        raise AssertionError(f"{command}\n{done.stderr}")


class Copies(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()
        self.proxy = servers["proxy"]

    def same_tables(self, other: Server, **more: str) -> None:
        for table in TABLES:
            query = f"SELECT to_jsonb(t) FROM {table} t ORDER BY 1"
            self.assertEqual(other.ask(query, **more), self.proxy.ask(query), table)

    def exact(self, other: Server, prefix: str, **more: str) -> None:
        """A key has its tokens, and both proxies know on which node: also after a move."""
        for node in NODES:
            key = key_on(node, prefix)
            taken = 0
            for _ in range(2):
                for ask in (lambda q, k: self.proxy.one(q, k), lambda q, k: other.one(q, k, **more)):
                    taken += ask("SELECT count(*) FILTER (WHERE rl_consume(%s, 10, 0)) FROM generate_series(1, 3)", key)
            self.assertEqual(taken, 10, key)

    def test_a_dump(self) -> None:
        """It has the nodes, the partitions, the seed and the policies, and lacks the user mapping."""
        self.proxy.ask("INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES ('dumped', 'default', 3, 1)")
        self.proxy.ask("INSERT INTO rate_limit_exceptions (policy, key, action) VALUES ('dumped', 'k', 'allow')")
        self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'deny', away_after = '4s'")
        self.proxy.ask("CREATE DATABASE restored TEMPLATE template0")
        try:
            reach = f"-h {WORK} -p {self.proxy.port} -U postgres"
            shell(f"pg_dump {reach} --no-publications --no-subscriptions postgres | psql -Xq -v ON_ERROR_STOP=1 {reach} -d restored")
            self.same_tables(self.proxy, database="restored")
            # the places of PL/Proxy's connections are made of the tables
            options = "SELECT unnest(srvoptions) FROM pg_foreign_server WHERE srvname = 'ratelimit' ORDER BY 1"
            self.assertEqual(self.proxy.ask(options, database="restored"), self.proxy.ask(options))
            rights = ("SELECT c.oid::regclass::text, relacl::text FROM pg_class c WHERE relname LIKE 'rate\\_limit%' AND relkind IN ('r', 'v') ORDER BY 1")
            self.assertEqual(self.proxy.ask(rights, database="restored"), self.proxy.ask(rights))
            self.proxy.ask(USER_MAPPING, database="restored")
            self.exact(self.proxy, "dumped", database="restored")
            self.proxy.ask("INSERT INTO rate_limit_nodes VALUES ('n9', 'host=/nowhere')", database="restored")
            self.assertEqual(self.proxy.one("SELECT count(*) FROM rate_limit_exceptions", database="restored"),
                             self.proxy.one("SELECT count(*) FROM rate_limit_exceptions"))
        finally:
            self.proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error', away_after = '3s'")
            self.proxy.ask("TRUNCATE rate_limit_exceptions; DELETE FROM rate_limit_policies WHERE policy = 'dumped'")
            self.proxy.ask("DROP DATABASE restored WITH (FORCE)")

    def test_a_dump_of_a_node(self) -> None:
        node = servers["n1"]
        node.ask("CREATE DATABASE restored TEMPLATE template0")
        reach = f"-h {WORK} -p {node.port} -U postgres"
        shell(f"pg_dump {reach} --no-subscriptions postgres | psql -Xq -v ON_ERROR_STOP=1 {reach} -d restored")
        partitions = "SELECT * FROM rate_limit_node_partitions ORDER BY 1"
        self.assertEqual(node.ask(partitions, database="restored"), node.ask(partitions))
        self.assertTrue(node.one("SELECT rl_node_has(ARRAY[(SELECT min(partition) FROM rate_limit_node_partitions)])", database="restored", user="ratelimit_proxy"))
        node.ask("DROP DATABASE restored WITH (FORCE)")

    @unittest.skipUnless(FULL, "only in the full form")
    def test_pg_dumpall(self) -> None:
        """All of the proxy's server, roles too, in a new one."""
        copy = Server("copy", PORTS["copy"])
        shell(f"pg_dumpall -h {WORK} -p {self.proxy.port} -U postgres | grep -v '^CREATE ROLE postgres;' | psql -Xq -h {WORK} -p {copy.port} -U postgres")
        self.same_tables(copy)
        copy.ask(USER_MAPPING)
        self.exact(copy, "dumpall")
        self.assertTrue(copy.one("SELECT rl_consume('all', 1, 0)", user="app"))
        copy.stop()

    def test_a_standby(self) -> None:
        """It decides; what is changed on the first counts there; and it changes nothing itself until it is promoted."""
        proxy = self.proxy
        standby = servers["proxy-standby"] = Server("proxy-standby", PORTS["proxy-standby"], of=proxy)
        self.assertTrue(standby.one("SELECT pg_is_in_recovery()"))
        self.same_tables(standby)
        self.exact(standby, "recovery")
        self.assertEqual(standby.one("SELECT rl_consume_each(ARRAY['r1', 'r2', 'r3', 'r1'], 1, 0)"), [True, True, True, False])
        self.assertTrue(standby.one("SELECT rl_settle(rl_reserve('r4', 10, 0, 4), 1)"))
        self.assertTrue(standby.one("SELECT rl_release(rl_acquire('r5', 1, hold => '1 hour'))"))
        self.assertEqual(standby.one("SELECT count(DISTINCT key) FROM rate_limit_status WHERE key IN ('r1', 'r2')"), 2)
        # what is done on nodes alone works
        self.assertTrue(standby.one("SELECT rl_reset('r1')"))
        standby.ask("SELECT rl_block('r2', '1 hour')")
        self.assertFalse(proxy.one("SELECT rl_consume('r2', 9, 0)"))
        # what would be written here does not
        key = key_on("n1", "moves")
        target = "n2"
        move = f"CALL rl_move_partition(_rl_partition('{key}', 'default'), '{target}')"
        for query in [move, "UPDATE rate_limit_proxy SET on_error = 'allow'", "INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('p', 1, 1)",
                      "SELECT rl_create_partitions()"]:
            self.assertIn(error_of("proxy-standby", query)[0], ("25006", "55000"), query)
        self.assertTrue(standby.one("SELECT rl_consume(%s, 2, 0)", key))
        # a move and other changes of the first arrive, also in a session that has called before
        with standby.connect() as session:
            session.execute("SELECT rl_consume(%s, 2, 0, 0)", [key])
            proxy.ask(move)
            self.assertEqual(session.execute("SELECT rl_consume(%s, 2, 0)", [key]).fetchone(), (True,))
            self.assertEqual(session.execute("SELECT rl_consume(%s, 2, 0)", [key]).fetchone(), (False,))
            self.assertEqual(node_of(key), target)
        if FULL:
            self.promote(standby)
        standby.stop()
        del servers["proxy-standby"]

    def promote(self, standby: Server) -> None:
        """It takes the first one's place, and nodes subscribe to it."""
        standby.ask("SELECT pg_promote()")
        key = key_on("n3", "promoted")
        self.assertTrue(standby.one("SELECT rl_consume(%s, 2, 0)", key))
        target = next(node for node in NODES if node != node_of(key))
        standby.ask("CALL rl_move_partition(_rl_partition(%s, 'default'), %s)", key, target)
        self.assertEqual(standby.ask("SELECT rl_consume(%s, 2, 0) FROM generate_series(1, 2)", key), [(True,), (False,)])
        # the other one refuses to be wrong: its map is old, and the node says so
        self.proxy.ask("UPDATE rate_limit_proxy SET move_wait = '100ms'")
        self.assertEqual(error_of("proxy", f"SELECT rl_consume('{key}', 2, 0)")[:2], ("08006", "could not decide: its partition is being moved"))
        self.proxy.ask("UPDATE rate_limit_proxy SET move_wait = %s", MOVE_WAIT)
        self.proxy.ask("CALL rl_move_partition(_rl_partition(%s, 'default'), %s)", key, target)
        # policies come from it
        self.subscribe(servers["n1"], standby)
        standby.ask("INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('promoted', 7, 1)")
        policies = "SELECT count(*) FROM rate_limit_policies WHERE policy = 'promoted'"
        until(lambda: servers["n1"].one(policies))
        self.assertEqual(standby.one("SELECT (rl_throttle_policy('promoted', %s)).capacity", key_on("n1", "promoted", "promoted")), 7)
        standby.ask("DELETE FROM rate_limit_policies WHERE policy = 'promoted'")
        until(lambda: not servers["n1"].one(policies))
        self.subscribe(servers["n1"], self.proxy)

    def subscribe(self, node: Server, proxy: Server) -> None:
        """Its policies come from this proxy, which has the same ones."""
        name = node.one("SELECT subname FROM pg_subscription")
        for command in ["DISABLE", "SET (slot_name = NONE)"]:
            node.ask(f"ALTER SUBSCRIPTION {name} {command}")
        node.ask(f"DROP SUBSCRIPTION {name}")
        proxy.ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active", name)
        node.ask(f"CREATE SUBSCRIPTION {name} CONNECTION '{proxy.location()} user=policy_reader' PUBLICATION rate_limit_policies WITH (copy_data = false)")
