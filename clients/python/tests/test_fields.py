"""Header fields are those of rl_headers(), and keys are those of addresses."""

from __future__ import annotations

import unittest

from support import needs, sql

from ratelimit_postgresql import Result, client_key, rate_limit_fields

RESULT = """SELECT r.allowed, r.capacity, r.remaining, extract(epoch FROM r.retry_after)::float8,
    extract(epoch FROM r.reset_after)::float8, r.limiter, r.shadowed"""


class Fields(unittest.TestCase):
    @needs("psycopg")
    def test_the_same_as_rl_headers(self) -> None:
        cases = [
            (True, 10, 9, "0", "10 s"),
            (True, 10, 9.999999, "0", "1 us"),
            (False, 10, 0.2, "0.8 s", "9.8 s"),
            (False, 10, 0.2, None, "9.8 s"),
            (False, 10, -3, "4 s", "13 s"),
            (True, 10, 10, "0", "0"),
            (False, 0, 0, None, "0"),
            (False, 10, 10, "1 hour", "0"),
            (False, 10, 5, "1 hour", "5 s"),
            (True, 3, 2, "0", None),
            (False, 3, 0, None, None),
            (True, 1e18, 1e17, "0", "9000000 s"),
            (False, 100, 99.5, "40 s", "0.05 s"),
            (True, 1000, 999, "0", "0.001 s"),
            (True, 7, 3.3, "0", "123.456 s"),
        ]
        for allowed, capacity, remaining, retry, reset in cases:
            for name, unit in (("api", None), ('q"uo\\te é', "content-bytes")):
                row = sql(
                    f"""{RESULT}, rl_headers(r, %s, %s) FROM (SELECT (jsonb_populate_record(NULL::rl_result, jsonb_build_object(
                        'allowed', %s::bool, 'capacity', %s::float8, 'remaining', %s::float8, 'retry_after', %s::interval,
                        'reset_after', %s::interval, 'limiter', 'l', 'shadowed', false))).*) AS r""",
                    name,
                    unit,
                    allowed,
                    capacity,
                    remaining,
                    retry,
                    reset,
                )
                with self.subTest((allowed, capacity, remaining, retry, reset)):
                    self.assertEqual(rate_limit_fields(Result(*row[:7], by="database"), name=name, unit=unit), row[7])

    def test_what_is_known_without_the_server(self) -> None:
        self.assertEqual(rate_limit_fields(Result(True, None, None, 0, None, "l", False, "allow")), {})
        full = Result(True, 10, 10, 0, 0, "l", False, "database")
        self.assertEqual(rate_limit_fields(full)["RateLimit-Policy"], '"l";q=10')
        self.assertEqual(rate_limit_fields(full, refill=3)["RateLimit-Policy"], '"l";q=10;w=4')

    def test_keys_of_addresses(self) -> None:
        for address, forwarded, options, key in (
            ("203.0.113.7", "", {}, "203.0.113.7"),
            ("203.0.113.7", "198.51.100.1", {}, "203.0.113.7"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.7", {"hops": 1}, "203.0.113.7"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.7", {"hops": 2}, "198.51.100.1"),
            ("10.0.0.1", "203.0.113.7", {"hops": 5}, "203.0.113.7"),
            ("10.0.0.1", "198.51.100.1, nonsense", {"hops": 2}, "10.0.0.1"),
            ("10.0.0.1", "203.0.113.7:1234", {"hops": 1}, "203.0.113.7"),
            ("10.0.0.1", "[2001:db8::1]:1234", {"hops": 1}, "2001:db8::/64"),
            ("2001:db8:1:2:3:4:5:6", "", {}, "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3:4:5:6", "", {"ipv6_prefix": 48}, "2001:db8:1::/48"),
            ("2001:db8:1:2:3:4:5:6", "", {"ipv6_prefix": 0}, "::/0"),
            ("::ffff:203.0.113.7", "", {}, "203.0.113.7"),
            ("fe80::1%eth0", "", {"ipv6_prefix": 128}, "fe80::1/128"),
            (None, "", {}, "unknown"),
            ("", "", {"hops": 1}, "unknown"),
            ("unix:", "203.0.113.7", {"hops": 1}, "203.0.113.7"),
        ):
            with self.subTest((address, forwarded, options)):
                self.assertEqual(client_key(address, forwarded, **options), key)


if __name__ == "__main__":
    unittest.main()
