"""A proxy has the functions and views of ratelimit, and they answer as those of one server."""

import unittest

import psycopg

from servers import NODES, error_of, key_on, make_servers, servers

FUNCTIONS = """
SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.provolatile::text, p.prokind::text, p.proisstrict,
    has_function_privilege('app', p.oid, 'EXECUTE'), has_function_privilege('watcher', p.oid, 'EXECUTE')
FROM pg_proc p WHERE p.proname LIKE 'rl\\_%' AND p.proname <> ALL ('{rl_create_partitions,rl_move_partition}') ORDER BY 1, 2
"""

# The rest of a node's relations is how it keeps its own buckets, or is of PostgREST.
RELATIONS = """
SELECT c.relname, a.attname, format_type(a.atttypid, NULL), has_table_privilege('app', c.oid, 'SELECT'), has_table_privilege('watcher', c.oid, 'SELECT')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relname LIKE 'rate\\_limit\\_%' AND c.relkind IN ('r', 'v')
    AND c.relname <> ALL ('{rate_limit_proxy,rate_limit_nodes,rate_limit_partitions,rate_limit_buckets,rate_limit_tickets,rate_limit_reserved,rate_limit_postgrest_rules}')
ORDER BY c.relname, a.attnum
"""

CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = ANY ('{rate_limit_policies,rate_limit_exceptions}'::regclass[]) ORDER BY 1, 2
"""

# What one server and a proxy answer alike, in this order.  Times are left out.
SAME = [
    "SELECT rl_consume('same', 3, 0) FROM generate_series(1, 5)",
    "SELECT rl_consume(key => 'named', refill => 0, capacity => 2, limiter => 'api', cost => 1.5) FROM generate_series(1, 2)",
    "SELECT rl_throttle('same', 3, 0), rl_peek('new', 3, 0, 2)",
    "SELECT (rl_throttle('t', 3, 0)).*",
    "SELECT rl_consume_period('p', 2, 'year'), (rl_throttle_period('p', 2, 'year')).remaining, (rl_peek_period('p', 2, 'year')).allowed",
    "SELECT hits FROM rl_count('c', 'year', 5)",
    "SELECT rl_consume_upto('u', 7, 0, 5), rl_consume_upto('u', 7, 0, 5)",
    "SELECT rl_consume_each(ARRAY['a', 'b', 'c', 'a', 'd', 'a', 'e', 'f', 'g'], 2, 0)",
    "SELECT rl_consume_each('{}', 2, 0), rl_throttle_each('{}', '{}', '{}')",
    "SELECT rl_throttle_each(ARRAY['x', 'y', 'x', 'z', 'w'], ARRAY[1, 2, 1, 3, 4], ARRAY[0, 0, 0, 0, 0], NULL, ARRAY['l', 'm', 'l', 'n', 'default'])",
    "SELECT rl_throttle_each(ARRAY['x2', 'y2', 'z2'], ARRAY[1, 2, 3], ARRAY[0, 0, 0], ARRAY[1, 2, 4])",
    "SELECT rl_consume_all(ARRAY['user:{7}', 'ip:{7}'], ARRAY[1, 5], ARRAY[0, 0], NULL, ARRAY['user', 'ip']) FROM generate_series(1, 2)",
    "SELECT tokens FROM rate_limit_status WHERE key = 'ip:{7}'",
    "SELECT rl_wait('w', 1, 0.001), rl_wait('w', 1, 0.001, timeout => '10 ms'), rl_wait('w2', 1, 100), rl_wait('w2', 1, 100)",
    "SELECT rl_book('b', 1, 0.5), rl_book('b2', 1, 0, 2, timeout => '0') IS NULL",
    "SELECT rl_enforce('enforced', 1, 0)",
    "SELECT rl_per(60, '1 min'), rl_headers(rl_throttle('h', 3, 0)), (rl_period('day', 'epoch')).name",
    "SELECT rl_simulate('epoch', 1, 0) OVER (), rl_simulate_period('epoch', 1, 'day') OVER ()",
    "SELECT rl_reward('same', 2), rl_penalize('same', 3, 0, 4), rl_reset('same'), rl_reset('same')",
    "SELECT rl_block('same', '1 hour'), rl_consume('same', 3, 0), rl_unblock('same'), rl_consume('same', 3, 0)",
    "SELECT rl_report('r', 'edge', 4), rl_report_batch('[{\"key\": \"r\", \"limiter\": \"edge\", \"rejected\": 3}, {\"key\": \"s\", \"limiter\": \"edge\", \"rejected\": 1}, {\"key\": \"\"}, 7]')",
    "SELECT rl_flag('f'), rl_flag('f'), rl_unflag('f'), rl_unflag('f'), rl_unflag('none')",
    "SELECT limiter, key, rejected, reason FROM rate_limit_flags ORDER BY 1, 2",
    "SELECT rl_flush() > 0",
    "SELECT limiter, key, sum(count)::bigint FROM rate_limit_violation_details WHERE limiter = 'edge' GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT limiter, key, last_hour, total, flagged FROM rate_limit_top_offenders ORDER BY 1, 2",
    "SELECT limiter, sum(count)::bigint, sum(keys)::bigint FROM rate_limit_violations_hourly GROUP BY 1 ORDER BY 1",
    "SELECT limiter, allowed, denied, shadowed FROM rate_limit_decisions ORDER BY 1",
    "SELECT limiter, allowed, denied, buckets_used, buckets_in_table, violations_pending FROM rate_limit_stats ORDER BY 1 NULLS LAST",
    "SELECT limiter, key, tokens, capacity, refill, store, period FROM rate_limit_status WHERE refill = 0 OR period IS NOT NULL ORDER BY limiter, key, period",
    "SELECT limiter, key, tokens FROM rl_status('same')",
    "SELECT limiter, key, rejected FROM rate_limit_episodes ORDER BY 1, 2",
    "SELECT rl_reserve('res', 10, 0, 4) > 0, rl_reserve('res', 10, 0, 7) IS NULL",
    "SELECT limiter, key, tokens, store, period FROM rate_limit_reservations",
    "SELECT rl_settle(12345, 1)",
    "SELECT rl_acquire('slot', 1, hold => '10 s') > 0, rl_acquire('slot', 1, hold => '10 s') IS NULL",
    "SELECT limiter, key, state, weight, hold, slots, held, waiting FROM rate_limit_slots",
    "SELECT rl_release(12345), rl_renew(12345, '1 s')",
    "SELECT rl_reset_all('api'), rl_reset_all(NULL) > 0",
    "SELECT rl_stats_reset()",
]

# Errors: the same code, message, detail and hint.
ERRORS = [
    "SELECT rl_consume(NULL, 3, 0)",
    "SELECT rl_consume('k', 3, 0, limiter => NULL)",
    "SELECT rl_consume('', 3, 0)",
    "SELECT rl_consume('k', 'NaN', 0)",
    "SELECT rl_consume('k', 3, 0, 1, 'a:b')",
    "SELECT rl_consume(repeat('k', 256), 3, 0)",
    "SELECT rl_consume_each(ARRAY['k', NULL], 3, 0)",
    "SELECT rl_consume_each(ARRAY['k', ''], 3, 0)",
    "SELECT rl_consume_each(NULL, 3, 0)",
    "SELECT rl_consume_each(ARRAY['k', 'l', 'm', 'n'], -1, 0)",
    "SELECT rl_throttle_each(ARRAY['k', 'l', 'm', 'n'], ARRAY[1, 1, 1, 'NaN'], ARRAY[1, 1, 1, 1])",
    "SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1], ARRAY[1, 1])",
    "SELECT rl_consume_all(ARRAY['k'], ARRAY[1, 2], ARRAY[1])",
    "SELECT rl_enforce('enforced', 1, 0) FROM generate_series(1, 2)",
    "SELECT rl_consume_policy('none', 'k')",
    "SELECT rl_acquire('k', -1, hold => '1 s')",
    "SELECT rl_acquire('k', 1, hold => 'never')",
    "SELECT rl_settle(NULL, 1)",
    "SELECT rl_report_batch('{}')",
    "SELECT rl_report_batch(NULL)",
    "SELECT rl_wait('k', 1, 1, timeout => '-1 s')",
]


class SameFunctions(unittest.TestCase):
    def setUp(self) -> None:
        make_servers()
        self.maxDiff = 20000

    def assert_same_rows(self, query: str) -> None:
        """The same rows, of which only those that differ are shown."""
        here, alone = servers["proxy"].ask(query), servers["alone"].ask(query)
        self.assertTrue(alone)
        self.assertEqual([row for row in here if row not in alone], [row for row in alone if row not in here])
        self.assertEqual(here, alone)

    def test_same_signatures_and_rights(self) -> None:
        self.assert_same_rows(FUNCTIONS)

    def test_same_columns_and_rights(self) -> None:
        self.assert_same_rows(RELATIONS)

    def test_policies_are_the_same_tables(self) -> None:
        self.assert_same_rows(CONSTRAINTS)

    def test_same_answers(self) -> None:
        differ = []
        for query in SAME:
            answers = [servers[name].ask(query) for name in ("proxy", "alone")]
            if answers[0] != answers[1]:
                differ.append((query, *answers))
        self.assertEqual(differ, [])

    def test_same_errors(self) -> None:
        differ = []
        for query in ERRORS:
            answers = [error_of(name, query) for name in ("proxy", "alone")]
            if answers[0] != answers[1] or len(answers[1]) == 1:
                differ.append((query, *answers))
        self.assertEqual(differ, [])

    def test_an_error_takes_nothing(self) -> None:
        keys = [key_on(node, "bad") for node in NODES]
        with servers["proxy"].connect() as connection:
            # on whichever node each of the last ones would be
            for last in (None, "", *("k" * 256 + str(i) for i in range(8))):
                with self.assertRaises(psycopg.Error):
                    connection.execute("SELECT rl_consume_each(%s::text[], 3, 0)", [[*keys, last]])
                with self.assertRaises(psycopg.Error):
                    connection.execute("SELECT rl_throttle_each(%s::text[], ARRAY[3, 3, 3, 3], ARRAY[0, 0, 0, 0])", [[*keys, last]])
            for last in range(8):
                with self.assertRaises(psycopg.Error):
                    connection.execute("SELECT rl_throttle_each(%s::text[], ARRAY[3, 3, 3, -1], ARRAY[0, 0, 0, 0])", [[*keys, f"k{last}"]])
                with self.assertRaises(psycopg.Error):
                    connection.execute("SELECT rl_throttle_each(%s::text[], ARRAY[3, 3, 3, 3], ARRAY[0, 0, 0, 0], NULL, ARRAY['default', 'default', 'default', 'a:b'])",
                                       [[*keys, f"k{last}"]])
        for key in keys:
            self.assertEqual(servers["proxy"].ask("SELECT * FROM rl_status(%s)", key), [])
