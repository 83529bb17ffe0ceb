"""What docs/scale-out.md shows is what happens.  It is set up in servers.py; this is the rest."""

import unittest

import document
from servers import FULL, NODES, PORTS, WORK, Server, make_node, make_servers, node_of, servers, until


class Document(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()

    def run_section(self, title: str, where: str = "the proxy") -> None:
        found = [block for block in document.blocks() if block.section == title and block.where == where]
        self.assertTrue(found, title)
        for block in found:
            said = document.run_block(block, str(WORK), PORTS, PORTS["second" if where == "another proxy" else "proxy"], "proxy")
            if block.output is not None:
                self.assertEqual(said, block.output)
            else:
                self.assertNotRegex(said, "ERROR|FATAL", block.sql)

    def test_1_what_differs(self) -> None:
        self.run_section("What differs from one server")

    def test_2_moving_a_partition(self) -> None:
        self.run_section("Moving a partition")
        self.assertEqual(servers["proxy"].one("SELECT node FROM rate_limit_partitions WHERE partition = 7"), "n3")

    @unittest.skipUnless(FULL, "only in the full form")
    def test_3_adding_a_node(self) -> None:
        proxy = servers["proxy"]
        keys = [f"added{i}" for i in range(200)]
        proxy.ask("SELECT rl_consume_each(%s::text[], 3, 0, 2)", keys)
        servers["n4"] = Server("n4", PORTS["n4"], "shared_preload_libraries = ratelimit")
        make_node(servers["n4"])
        self.run_section("Adding a node", "the proxy, full form")
        self.assertTrue(14 <= proxy.one("SELECT count(*) FROM rate_limit_partitions WHERE node = 'n4'") <= 16)
        for left in (True, False):
            self.assertEqual(proxy.one("SELECT rl_consume_each(%s::text[], 3, 0)", keys), [left] * 200)

    def test_4_more_proxies(self) -> None:
        """Two proxies: exactly C, and a move that one of them has made is obeyed by the other."""
        proxy = servers["proxy"]
        second = servers["second"] = Server("second", PORTS["second"])
        self.run_section("More proxies")
        self.run_section("More proxies", "another proxy")
        until(lambda: second.one("SELECT srvoptions::text !~ '/nowhere' FROM pg_foreign_server WHERE srvname = 'ratelimit'"))
        until(lambda: second.one("SELECT count(*) FROM rate_limit_partitions JOIN rate_limit_nodes USING (node)") == 64)
        until(lambda: proxy.ask("TABLE rate_limit_proxy") == second.ask("TABLE rate_limit_proxy"))
        with proxy.connect() as here, second.connect() as there:
            query = "SELECT count(*) FILTER (WHERE rl_consume('twice', 20, 0)) FROM generate_series(1, 7)"
            taken = 0
            for _ in range(2):
                for connection in (here, there):
                    row = connection.execute(query).fetchone()
                    taken += row[0] if row else 0
                target = next(node for node in NODES if node != node_of("twice"))
                proxy.ask("CALL rl_move_partition(_rl_partition('twice', 'default'), %s)", target)
            self.assertEqual(taken, 20)

    def test_5_a_node_is_lost(self) -> None:
        proxy = servers["proxy"]
        self.run_section("A node is lost")
        self.assertTrue(proxy.one("SELECT bool_and(rl_consume('lost' || i, 1, 0)) FROM generate_series(1, 50) i"))
        servers["n2"].kill()
        proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error'")
        self.run_section("A node is lost", "the proxy, after n2 is lost")
        self.assertEqual(proxy.one("SELECT count(*) FROM rate_limit_partitions WHERE node = 'n2'"), 0)
        # those whose node is lost have their tokens again, and only those
        again = proxy.one("SELECT count(*) FILTER (WHERE rl_consume('lost' || i, 1, 0)) FROM generate_series(1, 50) i")
        self.assertTrue(0 < again < 50, again)
