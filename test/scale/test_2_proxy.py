"""What only a proxy does: keys are spread, and what cannot be decided together is refused."""

import unittest

import psycopg

from servers import NODES, error_of, key_on, make_servers, node_of, servers, until


class OnlyOnAProxy(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()

    def test_keys_are_spread(self) -> None:
        rows = servers["proxy"].ask("SELECT p.node, count(*) FROM generate_series(1, 3000) i JOIN rate_limit_partitions p"
                                    " ON p.partition = _rl_partition('k' || i, 'default') GROUP BY 1")
        self.assertEqual(sorted(node for node, n in rows if 700 < n < 1300), NODES, rows)

    def test_one_limiter_of_a_key_does_not_lead_to_another(self) -> None:
        nodes = {node_of("k", f"limiter{i}") for i in range(30)}
        self.assertEqual(len(nodes), 3)
        self.assertEqual(len({node_of("user:{42}:api", f"limiter{i}") for i in range(30)} | {node_of("{42}")}), 1)

    def test_braces_are_those_of_redis(self) -> None:
        same = "SELECT _rl_route(%s, 'a', 1) = _rl_route(%s, 'b', 1)"
        for key, other, together in [("{a}b", "c{a}", True), ("{}{a}", "{}{a}", False), ("x{{a}}", "{{a}", True), ("{a", "{a", False),
                                     ("}{a}", "{a}", True), ("a", "{a}", True)]:
            expected = together and key != "a"
            self.assertEqual(servers["proxy"].one(same, key, other), expected, (key, other))

    def test_a_node_computes_the_same_partition(self) -> None:
        # the proxy's partition, and that of the node's function, over odd keys
        rows = servers["proxy"].ask(
            "SELECT k, l, _rl_partition(k, l), partitions, seed FROM rate_limit_proxy, unnest("
            "  ARRAY['a', 'a{b}c', '{}', '{}{x}', '{{y}', 'user:{42}:api', '2001:db8::1', 'ü{ö}']) k, unnest(ARRAY['default', 'p', 'p/tier']) l")
        for key, limiter, partition, partitions, seed in rows:
            self.assertEqual(servers["n1"].one("SELECT rl_node_partition(%s, %s, %s, %s)", key, limiter, partitions, seed), partition, (key, limiter))

    def test_what_cannot_be_atomic_is_refused(self) -> None:
        keys = [key_on("n1", "user"), key_on("n2", "ip")]
        code, message, detail, _ = error_of("proxy", f"SELECT rl_consume_all(ARRAY{keys}, ARRAY[1, 1], ARRAY[0, 0])")
        self.assertEqual(code, "0A000", message)
        self.assertTrue(keys[0] in str(detail) and keys[1] in str(detail), detail)
        code, *_ = error_of("proxy", f"SELECT rl_consume_policies(ARRAY['a', 'b'], ARRAY{keys})")
        self.assertEqual(code, "0A000")
        # also two that happen to be on one node
        together = [key_on("n1", "one"), key_on("n1", "two")]
        self.assertEqual(error_of("proxy", f"SELECT rl_consume_all(ARRAY{together}, ARRAY[1, 1], ARRAY[0, 0])")[0], "0A000")
        for key in keys + together:
            self.assertEqual(servers["proxy"].ask("SELECT * FROM rl_status(%s)", key), [])

    def test_arrays_of_any_shape_lead_to_the_same_bucket(self) -> None:
        proxy = servers["proxy"]
        for i in range(12):
            key = f"shape{i}"
            proxy.ask("SELECT rl_consume(%s, 1, 0, 1, 'shape')", key)
            for query in ["SELECT (rl_consume_each(ARRAY[[%s]], 1, 0, 1, 'shape'))[1]",
                          "SELECT (rl_consume_each(('[0:0]={' || %s || '}')::text[], 1, 0, 1, 'shape'))[1]",
                          "SELECT (rl_throttle_each(ARRAY[[%s]], '{{1}}', '[5:5]={0}', NULL, '{{shape}}'))[1].allowed",
                          "SELECT rl_consume_all(ARRAY[%s], '{1}', '{0}', NULL, '[0:0]={shape}')",
                          "SELECT rl_consume_all(ARRAY[[%s]], '{1}', '{0}', NULL, '{{shape}}')"]:
                self.assertIs(proxy.one(query, key), False, (query, key))

    def test_a_caller_cannot_have_numbers_rounded(self) -> None:
        with servers["proxy"].connect(user="app") as connection:
            connection.execute("SET extra_float_digits = -15; SET IntervalStyle = iso_8601; SET DateStyle = German")
            for query in ["rl_throttle('rounded', 15, 0.25)", "unnest(rl_throttle_each('{rounded}', '{15}', '{0.25}'))"]:
                self.assertTrue(connection.execute(f"SELECT capacity = 15 FROM {query}").fetchone()[0], query)
            [reservation] = connection.execute("SELECT rl_reserve('rounded2', 100, 0, 16)").fetchone()
            connection.execute("SELECT rl_settle(%s, 15)", (reservation,))
        self.assertEqual(servers["proxy"].ask("SELECT refill FROM rl_status('rounded')"), [(0.25,)])
        self.assertEqual(servers["proxy"].ask("SELECT tokens FROM rl_status('rounded2')"), [(85,)])

    def test_what_a_session_would_hold_is_refused(self) -> None:
        self.assertEqual(error_of("proxy", "SELECT rl_acquire('k', 1)")[0], "0A000")
        self.assertEqual(error_of("proxy", "SELECT rl_acquire('k', 1, hold => 'session')")[0], "0A000")
        self.assertEqual(error_of("proxy", "SELECT rl_postgrest_check()")[0], "0A000")

    def test_reservations_and_tickets_find_their_node(self) -> None:
        proxy = servers["proxy"]
        for node in NODES:
            key = key_on(node, "ticket")
            self.assertEqual(proxy.one("SELECT rl_settle(rl_reserve(%s, 10, 0, 4), 1)", key), 9)
            ticket = proxy.one("SELECT rl_acquire(%s, 1, hold => '1 hour')", key)
            self.assertTrue(proxy.one("SELECT rl_renew(%s, '2 hours')", ticket))
            self.assertTrue(proxy.one("SELECT rl_release(%s)", ticket))
            self.assertFalse(proxy.one("SELECT rl_release(%s)", ticket))

    def test_a_node_that_has_no_room_is_not_said_to_be_away(self) -> None:
        fill = "SELECT count(rl_acquire('full' || i, 1, 1, '1 h')) FROM generate_series(1, 1000000) i"
        try:
            key = key_on("n1", "room")
            # tickets of other tests may end meanwhile
            for i in range(10):
                while error_of("n1", fill, user="ratelimit_proxy")[0] != "53400":
                    pass
                said = error_of("proxy", f"SELECT rl_acquire('{key}', 100, 1, '1 s')")
                if said != ("no error",):
                    break
            state, message, *_ = said
            self.assertEqual(state, "08006")
            self.assertIn("too many tickets are held", str(message))
        finally:
            servers["n1"].ask("SELECT count(rl_release(ticket)) FROM rate_limit_slots WHERE key LIKE 'full%'")

    def test_a_cancelled_wait_gives_back(self) -> None:
        with servers["proxy"].connect() as connection:
            self.assertTrue(connection.execute("SELECT rl_consume('cancelled', 1, 0.1)").fetchone()[0])
            connection.execute("SET statement_timeout = '300ms'")
            with self.assertRaises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT rl_wait('cancelled', 1, 0.1)")
        self.assertGreaterEqual(servers["proxy"].one("SELECT tokens FROM rl_status('cancelled')"), 0)

    def test_violations_are_those_of_the_callers_gateway(self) -> None:
        with servers["proxy"].connect() as connection:
            connection.execute("SET ratelimit.gateway_name = 'front-1'")
            for node in NODES:
                connection.execute("SELECT rl_consume(%s, 1, 0, 2, 'gateway')", [key_on(node, "g", "gateway")])
        rows = servers["proxy"].ask("SELECT DISTINCT gateway_name FROM rate_limit_pending WHERE limiter = 'gateway'")
        self.assertEqual(rows, [("front-1",)])

    def test_an_ordinary_role_may_consume_and_nothing_else(self) -> None:
        proxy = servers["proxy"]
        self.assertTrue(proxy.one("SELECT rl_consume('app', 1, 0)", user="app"))
        for query in ["SELECT rl_reset('app')", "SELECT * FROM rate_limit_status", "SELECT seed FROM rate_limit_proxy", "SELECT _rl_partition('a', 'b')",
                      "SELECT _rl_at_consume(0, '', 'app', 1, 0, 1, 'default')", "SELECT * FROM _rl_all_status()", "CALL rl_move_partition(0, 'n1')",
                      "SELECT * FROM rate_limit_nodes", "SELECT rl_create_partitions()",
                      "CREATE FUNCTION f() RETURNS text LANGUAGE plproxy AS $$ CLUSTER 'ratelimit'; RUN ON ALL; SELECT 'x'::text; $$"]:
            self.assertEqual(error_of("proxy", query, user="app")[0], "42501", query)
        self.assertEqual(proxy.ask("SELECT key FROM rate_limit_status WHERE key = 'app'", user="watcher"), [("app",)])
        self.assertEqual(error_of("proxy", "SELECT seed FROM rate_limit_proxy", user="watcher")[0], "42501")
        self.assertEqual(error_of("n1", "CREATE TABLE mine ()", user="ratelimit_proxy")[0], "42501")

    def test_names_that_mislead_change_nothing(self) -> None:
        proxy = servers["proxy"]
        proxy.ask("CREATE SCHEMA hostile; GRANT ALL ON SCHEMA hostile TO app")
        proxy.ask("""
            CREATE FUNCTION hostile.now_true(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 0';
            CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.now_true);
            CREATE FUNCTION hostile.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1 / 0::bigint';
            CREATE FUNCTION hostile.strpos(text, text) RETURNS integer LANGUAGE sql AS 'SELECT 1 / 0';
            CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT (1 / 0)::text::timestamptz';
            CREATE TABLE hostile.rate_limit_proxy (seed bigint);
            CREATE TYPE hostile.text AS (a int)""", user="app")
        with proxy.connect(user="app") as connection:
            connection.execute("SET search_path = hostile, pg_catalog, public")
            self.assertEqual(connection.execute("SELECT public.rl_consume('misled', 1, 0), public.rl_consume('misled', 1, 0)").fetchone(), (True, False))
            self.assertEqual(connection.execute("SELECT public.rl_consume_each('{misled2,misled2}', 1, 0)").fetchone(), ([True, False],))
        proxy.ask("DROP SCHEMA hostile CASCADE")

    def test_every_object_has_a_comment(self) -> None:
        for server, extension in [("proxy", "ratelimit_proxy"), ("n1", "ratelimit_node")]:
            self.assertEqual(servers[server].ask(
                "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = %s"
                " WHERE d.deptype = 'e' AND obj_description(d.objid, d.classid::regclass::name) IS NULL"
                " AND pg_describe_object(d.classid, d.objid, 0) !~ '^(sequence|type .*(\\[\\]|rate_limit_))'", extension), [])

    def test_policies_and_exceptions_are_those_of_the_proxy(self) -> None:
        proxy = servers["proxy"]
        proxy.ask("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('login', 'default', 3, 0, true), ('login', 'year', 5, 0, true)")
        keys = [key_on(node, "policy", "login") for node in NODES]
        for node in NODES:
            until(lambda: servers[node].one("SELECT count(*) FROM rate_limit_policies") == 2)
        for key in keys:
            self.assertEqual(proxy.ask("SELECT rl_consume_policy('login', %s) FROM generate_series(1, 4)", key), [(True,)] * 3 + [(False,)])
            self.assertEqual(proxy.ask("SELECT tier, tokens FROM rl_status_policy('login', %s)", key), [("default", 0), ("year", 2)])
            self.assertTrue(proxy.one("SELECT rl_reset(%s, 'login/year')", key))
        # live: obeyed by sessions that have called it before
        with proxy.connect() as connection:
            for key in keys:
                self.assertFalse(connection.execute("SELECT rl_consume_policy('login', %s)", [key]).fetchone()[0])
            proxy.ask("INSERT INTO rate_limit_exceptions (policy, key, action) SELECT 'login', k, 'allow' FROM unnest(%s::text[]) k", keys)
            for key in keys:
                until(lambda: connection.execute("SELECT rl_consume_policy('login', %s)", [key]).fetchone()[0])
            self.assertEqual(connection.execute("SELECT count(*) FILTER (WHERE a.allowed) FROM unnest(rl_consume_policies('{login,login}', %s::text[])) a",
                                                [[keys[0], keys[0]]]).fetchone()[0], 2)
            proxy.ask("TRUNCATE rate_limit_exceptions")
            for key in keys:
                until(lambda: not connection.execute("SELECT rl_consume_policy('login', %s)", [key]).fetchone()[0])
