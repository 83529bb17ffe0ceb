"""The functions, views and settings, and who may use them."""

import time

from checks import check, equal, sqlstate
from servers import WORK, Server, consume, program, wait_until


def test_violations_count(regions):
    pending = "SELECT coalesce(sum(count), 0)::int FROM rate_limit_pending WHERE key = 'v'"
    with regions.east.connect() as east:
        allowed = consume(east, 50, "v", capacity=10)
    equal(allowed, 10)
    equal(regions.east.value(pending), 40)


def test_results(regions):
    with regions.east.connect() as east:
        row = east.execute("SELECT allowed, capacity, remaining, retry_after, limiter, shadowed, period "
                           "FROM rl_throttle_leased('r', 10, 0, 4, 'res')").fetchone()
        equal((row[0], row[1], row[2], row[4:]), (True, 10, 6, ("res", False, None)))
        row = east.execute("SELECT allowed, remaining, retry_after, reset_after FROM rl_throttle_leased('r', 10, 0, 7, 'res')").fetchone()
        equal(row, (False, 6, None, None), "never")
        row = east.execute("SELECT allowed, retry_after FROM rl_throttle_leased('r', 10, 0, 11, 'res')").fetchone()
        equal(row, (False, None), "above the capacity")
        row = east.execute("SELECT allowed, remaining, retry_after FROM rl_throttle_leased('r', 0, 0, 0, 'res')").fetchone()
        equal(row, (False, 0, None), "capacity 0")
        equal(consume(east, 1, "q", capacity=100, refill=0.1, cost=100, limiter="res"), 1)
        row = east.execute("SELECT allowed, extract(epoch FROM retry_after)::float8 FROM rl_throttle_leased('q', 100, 0.1, 50, 'res')").fetchone()
        check(row[0] is False and 450 < row[1] <= 500, f"the wait that the home tells: {row}")
        equal(consume(east, 3, "f", capacity=0.9, refill=0, cost=0.3, limiter="res"), 3, "fractions")
        equal(consume(east, 1, "f", capacity=0.9, refill=0, cost=0.3, limiter="res"), 0)


def test_a_block_at_home(regions):
    regions.home.query("SELECT rl_block('b', '1 h', 'quota')")
    with regions.east.connect() as east:
        row = east.execute("SELECT allowed, extract(epoch FROM retry_after)::float8 FROM rl_throttle_leased('b', 10, 1, 1, 'quota')").fetchone()
    check(row[0] is False and 3500 < row[1] <= 3600, f"{row}")


def test_settings_of_ratelimit(regions):
    with regions.east.connect() as east:
        consume(east, 20, "s", capacity=10)
        east.execute("SET ratelimit.shadow = on")
        equal(east.execute("SELECT allowed, shadowed FROM rl_throttle_leased('s', 10, 0, 1, 'quota')").fetchone(),
              (True, True))
        east.execute("RESET ratelimit.shadow; SET ratelimit.enabled = off")
        equal(consume(east, 5, "s", capacity=10), 5)


def test_bad_arguments(regions):
    cases = {
        "NULL, 1, 1": "22004",
        "'k', NULL, 1": "22004",
        "'k', 1, NULL": "22004",
        "'k', 1, 1, NULL": "22004",
        "'k', 1, 1, 1, NULL": "22004",
        "'', 1, 1": "22023",
        "'k', -1, 1": "22023",
        "'k', 1, 'NaN'": "22023",
        "'k', 1, 1, 'Infinity'": "22023",
        "'k', 1, 1, 1, ''": "22023",
        "'k', 1, 1, 1, 'a:b'": "22023",
        "repeat('k', 256), 1, 1": "54000",
        "'k', 1, 1, 1, repeat('l', 64)": "54000",
    }
    for function in ("rl_consume_leased", "rl_throttle_leased"):
        for arguments, code in cases.items():
            equal(sqlstate(regions.east, f"SELECT {function}({arguments})"), code, arguments)
    take = "SELECT * FROM rl_lease_take({}, '{{k}}', '{{l}}', '{{1}}', '{{1}}', '{{1}}', {})"
    equal(sqlstate(regions.home, take.format("NULL", "'{1}'")), "22004")
    equal(sqlstate(regions.home, take.format("'s'", "NULL")), "22004")
    equal(sqlstate(regions.home, take.format("'s'", "'{NULL}'")), "22004")
    equal(sqlstate(regions.home, take.format("'s'", "'{1,2}'")), "2202E")
    equal(sqlstate(regions.home, take.format("repeat('s', 200)", "'{1}'")), "54000")
    equal(sqlstate(regions.home, "SELECT rl_lease_return('s', NULL, '{k}', '{l}', '{1}')"), "22004")
    equal(sqlstate(regions.home, "SELECT rl_lease_return('s', 1, '{k}', '{l}', '{-1}')"), None, "another epoch")
    equal(sqlstate(regions.east, "INSERT INTO rate_limit_homes VALUES ('a:b', '', NULL)"), "23514")


def test_hostile_keys(regions):
    keys = ["'", '"', "\\", '\\"', "{", "}", ",", "NULL", " ", "\t\n", "ö", "€" * 85, "x" * 255, "$1", "%s", "a\\", "\u0001"]
    with regions.east.connect() as east:
        for key in keys:
            equal(consume(east, 7, key, capacity=5, limiter="h'\"\\"), 5, repr(key))
    found = regions.home.value("SELECT count(*) FROM rate_limit_status WHERE limiter = %s AND key = ANY(%s) AND tokens = 0",
                               "h'\"\\", keys)
    equal(found, len(keys), "the home has all of them")


def test_which_home(regions):
    regions.west.query("INSERT INTO rate_limit_homes VALUES ('here', '', NULL), ('here', 'far:', 'home')")
    with regions.west.connect() as west:
        equal(consume(west, 7, "near:1", capacity=5, limiter="here"), 5)
        equal(consume(west, 7, "far:1", capacity=5, limiter="here"), 5)
        equal(regions.west.value("SELECT count(*) FROM rate_limit_status WHERE key = 'near:1'"), 1)
        equal(regions.west.value("SELECT count(*) FROM rate_limit_status WHERE key = 'far:1'"), 0)
        equal(regions.home.value("SELECT tokens FROM rate_limit_status WHERE key = 'far:1'"), 0)
        # sessions see a change at once
        regions.west.query("DELETE FROM rate_limit_homes WHERE prefix = 'far:'")
        equal(consume(west, 7, "far:1", capacity=5, limiter="here"), 5, "its home is here now")
        regions.west.query("INSERT INTO rate_limit_homes VALUES ('gone', '', 'nowhere')")
        equal(sqlstate(regions.west, "SELECT rl_consume_leased('k', 1, 1)"), "42704")
        regions.west.query("DELETE FROM rate_limit_homes WHERE limiter = 'gone'")


def test_privileges(regions):
    east = regions.east
    east.query("CREATE ROLE nobody LOGIN")
    with east.connect(user="nobody") as nobody:
        equal(consume(nobody, 7, "n", capacity=5), 5, "every role may call")
    for statement in (
        "SELECT * FROM rate_limit_homes",
        "SELECT * FROM rate_limit_leases",
        "SELECT * FROM rate_limit_home_states",
        "SELECT * FROM rate_limit_lease_servers",
        "INSERT INTO rate_limit_homes VALUES ('x', '', NULL)",
        "SELECT rl_lease_take('s', '{k}', '{l}', '{1}', '{1}', '{1}', '{1}')",
        "SELECT rl_lease_return('s', 1, '{k}', '{l}', '{1}')",
        "SELECT rl_lease_epoch()",
        "SELECT _rl_leases()",
    ):
        equal(sqlstate(east, statement, user="nobody"), "42501", statement)
    equal(east.value("SELECT umoptions FROM pg_user_mappings", user="nobody"), None, "credentials are hidden")
    equal(sqlstate(east, "SELECT _rl_homes_changed()"), "39P01")
    missing = east.query("""
        SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
        WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit_region') AND deptype = 'e'
        AND obj_description(objid, classid::regclass::name) IS NULL AND classid NOT IN ('pg_type'::regclass)""")
    equal(missing, [], "objects without a comment")
    missing = east.query("""
        SELECT attrelid::regclass, attname FROM pg_attribute WHERE attrelid IN ('rate_limit_homes'::regclass,
        'rate_limit_leases'::regclass, 'rate_limit_home_states'::regclass, 'rate_limit_lease_servers'::regclass)
        AND attnum > 0 AND col_description(attrelid, attnum) IS NULL""")
    equal(missing, [], "columns without a comment")


def test_without_preloading(_):
    plain = Server("plain", shared_preload_libraries="ratelimit")
    plain.create()
    for statement in ("SELECT rl_consume_leased('k', 1, 1)", "SELECT rl_throttle_leased('k', 1, 1)",
                      "SELECT rl_lease_epoch()", "SELECT rl_lease_return('s', 1, '{}', '{}', '{}')",
                      "SELECT rl_lease_take('s', '{}', '{}', '{}', '{}', '{}', '{}')"):
        equal(sqlstate(plain, statement), "55000", statement)
    for view in ("rate_limit_leases", "rate_limit_home_states", "rate_limit_lease_servers", "rate_limit_homes"):
        equal(plain.query(f"SELECT * FROM {view}"), [], view)
    plain.query("INSERT INTO rate_limit_homes VALUES ('l', 'k', NULL)")
    plain.stop()
    check(not plain.crashed(), plain.crashed())


def test_how_long_a_call_takes(regions):
    """By a lease, against the same calls at the home.  It only prints."""
    times = []
    for server, function in ((regions.home, "rl_consume"), (regions.east, "rl_consume_leased")):
        statement = (f"SELECT count(*) FILTER (WHERE {function}('fast', 1e9, 0, 1, 'quota'))::int "
                     "FROM generate_series(1, 100000)")
        with server.connect() as connection:
            connection.execute("SELECT rl_consume_leased('fast', 1e9, 0, 1, 'quota')")
            best = 1e9
            for _ in range(3):
                began = time.monotonic()
                equal(connection.execute(statement).fetchone()[0], 100000)
                best = min(best, time.monotonic() - began)
            times.append(best * 1e9 / 100000)
    print(f"#   rl_consume at home {times[0]:.0f} ns, rl_consume_leased by a lease {times[1]:.0f} ns a call, in one query")


def test_databases(regions):
    east = regions.east
    east.query("CREATE DATABASE other")
    east.create("other")
    east.lease_from(regions.home, database="other")
    with east.connect("other") as other:
        equal(consume(other, 10, "db", capacity=20), 10)
    equal(east.query("SELECT 1 FROM rate_limit_leases WHERE key = 'db'"), [])
    workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ratelimit leases' AND datname = 'other'"
    equal(east.value(workers), 1)
    east.query("DROP EXTENSION ratelimit_region", database="other")
    wait_until(lambda: east.value(workers) == 0, what="the worker has ended")
    wait_until(lambda: regions.home.value("SELECT remaining FROM rl_peek('db', 20, 0, 0, 'quota')") == 10,
               what="its leases went back")
    east.query("CREATE EXTENSION ratelimit_region", database="other")
    east.query("CREATE SCHEMA elsewhere", database="other")
    east.query("ALTER EXTENSION ratelimit_region SET SCHEMA elsewhere", database="other")
    east.query("INSERT INTO elsewhere.rate_limit_homes VALUES ('*', '', 'home')", database="other")
    dump = program("pg_dump", "-h", WORK, "-p", str(east.port), "-U", "postgres", "other")
    check("COPY elsewhere.rate_limit_homes" in dump and "*\t\thome" in dump, "pg_dump keeps the homes")
    with east.connect("other") as other:
        other.execute("SET search_path = elsewhere")
        equal(consume(other, 5, "db", capacity=20), 5)
    east.query("DROP DATABASE other WITH (FORCE)")
    wait_until(lambda: east.value(workers) == 0)
