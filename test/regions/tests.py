"""
test/regions/tests.py [full]: what leases between servers promise.

Started by test/regions/run.  The last line is "N passed, M failed".
"""

import os
import socket
import sys
import threading
import time

import psycopg

from page import page
from predicted import predicted
from relay import Relay
from servers import WORK, Callers, Server, consume, program, wait_until
from two_regions import two_regions
from untrusted import *  # noqa: F403

FULL = sys.argv[1:2] == ["full"]


class Regions:
    """A home and two servers that lease from it, one of them through a relay."""

    def __init__(self):
        self.home = Server("home", ratelimit__save_interval="1h")
        self.home.be_home()
        self.east = Server("east", ratelimit_region__lease_idle="500ms")
        self.west = Server("west", ratelimit_region__lease_idle="500ms")
        self.relay = Relay(os.path.join(WORK, "r"), WORK, self.home.port)
        for server in (self.east, self.west):
            server.create()
        self.east.lease_from(self.home)
        self.west.lease_from(self.home, host=self.relay.folder, port=self.relay.port)
        self.all = [self.home, self.east, self.west]

    def drain(self, key, calls=20000, **call):
        """Take what is left of a key, wherever it is."""
        got = 0
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with self.east.connect() as east:
                taken = consume(east, calls, key, **call)
            held = sum(
                server.value("SELECT coalesce(sum(tokens), 0) FROM rate_limit_leases WHERE key = %s", key)
                for server in (self.east, self.west)
            )
            got += taken
            if taken == 0 and held < 1:
                return got
            if taken == 0:
                time.sleep(0.05)
        raise AssertionError(f"tokens of {key} are still held: {held}")


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(found, expected, text=""):
    check(found == expected, f"{text}: {found!r}, not {expected!r}")


def sqlstate(server, statement, user="postgres", **options):
    try:
        server.query(statement, user=user, **options)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_exactly_the_capacity_over_all_servers(regions):
    callers = Callers(regions.all, 3, key="all", capacity=2000, retry=False)
    try:
        wait_until(lambda: callers.calls > 3000, 30, "calls are made")
    finally:
        used = callers.stop()
    check(used <= 2000, f"{used} of 2000 tokens")
    used += regions.drain("all", capacity=2000)
    equal(used, 2000, "tokens used")
    equal(callers.problems, [])


def test_never_more_than_capacity_and_refill(regions):
    began = time.monotonic()
    callers = Callers(regions.all, 2, key="rate", capacity=50, refill=200, retry=False)
    time.sleep(1.5)
    used = callers.stop()
    most = 50 + 200 * (time.monotonic() - began)
    print(f"#   {used} of at most {most:.0f} in {callers.calls} calls")
    check(used <= most, f"{used}, above {most}")
    check(used >= 0.8 * most, f"{used}, far below {most}")


def test_links_that_break_at_any_moment(regions):
    # many keys, so that portions are nearly always under way
    keys, capacity = 10, 100000 if FULL else 2000
    regions.relay.delay = 0.01
    callers = Callers([regions.west] * 3 + [regions.east], 1, key="breaks", keys=keys, capacity=capacity)
    regions.relay.trouble(60 if FULL else 2, 19, lambda: regions.west.state() == "there")
    used = callers.stop()
    regions.relay.delay = 0
    wait_until(lambda: regions.west.state() == "there", what="the home is there again")
    # all that is left, so that it shows if there is too much
    for key in callers.by_key:
        callers.by_key[key] += regions.drain(key, calls=int(1.2 * capacity), capacity=capacity)
    total = sum(callers.by_key.values())
    failed = regions.west.state("failed")
    print(f"#   {total} of {keys * capacity} used, {used} of them meanwhile; {regions.relay.cuts} "
          f"connections cut, {failed} portions without an answer")
    for key, n in callers.by_key.items():
        check(n <= capacity, f"{n} of {capacity} tokens of {key}")
    check(used > 0, "no calls were allowed")
    check(failed > 5, "hardly any portion was lost")


def test_a_lost_answer_loses_tokens(regions):
    with regions.west.connect() as west:
        consume(west, 1, "before", capacity=100)
        regions.relay.swallow = True
        west.execute("SET ratelimit.on_error = deny; SET client_min_messages = error; "
                     "SET ratelimit_region.timeout = '300ms'")
        equal(consume(west, 1, "lost", capacity=100), 0, "without an answer")
        regions.relay.cut()
        regions.relay.swallow = False
        wait_until(lambda: regions.west.state() == "there")
        level = regions.home.value("SELECT remaining FROM rl_peek('lost', 100, 0, 0, 'quota')")
        check(level < 100, "the home has taken the tokens")
        used = consume(west, 150, "lost", capacity=100)
        used += regions.drain("lost", capacity=100)
        equal(used, level, "what is left is used, and no more")


def test_a_home_that_is_away(regions):
    with regions.west.connect() as west:
        west.execute("SET client_min_messages = error")
        got = consume(west, 20, "away", capacity=10000, limiter="away")
        equal(got, 20)
        held = regions.west.value("SELECT tokens FROM rate_limit_leases WHERE key = 'away'")
        regions.relay.set_down(True)
        wait_until(lambda: regions.west.state() == "away")
        west.execute("SET ratelimit.on_error = deny")
        got = consume(west, int(held) + 50, "away", capacity=10000, limiter="away")
        equal(got, int(held), "leases run out")
        west.execute("SET ratelimit.on_error = allow")
        equal(consume(west, 7, "away", capacity=10000, limiter="away"), 7)
        west.execute("SET ratelimit.on_error = error")
        try:
            began = time.monotonic()
            consume(west, 1, "away", capacity=10000, limiter="away")
        except psycopg.Error as error:
            equal(error.sqlstate, "HV00N")
            check(time.monotonic() - began < 0.5, "calls are decided at once")
        else:
            check(False, "there is no error")
        equal(west.execute("SELECT undecided >= 58, error IS NOT NULL FROM rate_limit_home_states").fetchone(),
              (True, True))
        regions.relay.set_down(False)
        wait_until(lambda: regions.west.state() == "there", what="the home is there again")
        equal(consume(west, 5, "away", capacity=10000, limiter="away"), 5, "and decides")


def test_a_home_that_is_silent(regions):
    """Packets to it are lost.  Calls do not wait for it for long, and other homes are not held up."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        # a queue of connections that nobody takes, and that is full, answers no more of them
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        regions.west.lease_from(None, host="127.0.0.1", port=port, name="silent", limiter="silent")
        with regions.west.connect() as west:
            west.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
            times = []
            for _ in range(3):
                began = time.monotonic()
                equal(consume(west, 1, "s", limiter="silent"), 0)
                times.append(time.monotonic() - began)
            check(0.9 < times[0] < 1.5 and max(times[1:]) < 0.3, f"one call waits for the timeout, not: {times}")
            # calls that keep waking the worker while it connects
            callers = Callers([regions.west], 2, key="s", limiter="silent")
            worst = 0
            for i in range(100):
                began = time.monotonic()
                equal(consume(west, 1, f"beside silent {i}", capacity=100), 1)
                worst = max(worst, time.monotonic() - began)
            equal(callers.stop(), 0)
            check(worst < 0.5, f"a call on another home took {worst:.2f} s")
            if FULL:
                # the next host is tried before the connection is given up
                regions.west.query(f"ALTER SERVER silent OPTIONS (SET host '127.0.0.1,{WORK}', SET port '{port},{regions.home.port}')")
                wait_until(lambda: consume(west, 1, "s", limiter="silent"), 15, "the second host decides")
        regions.west.query("DELETE FROM rate_limit_homes WHERE limiter = 'silent'; DROP SERVER silent CASCADE")


def test_a_term_that_is_over(regions):
    regions.west.query("ALTER SYSTEM SET ratelimit_region.lease_term = '1s'")
    regions.west.query("SELECT pg_reload_conf()")
    try:
        with regions.west.connect() as west:
            west.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
            time.sleep(0.3)
            equal(consume(west, 5, "term", capacity=10000), 5)
            regions.relay.set_down(True)
            wait_until(lambda: west.execute(
                "SELECT tokens FROM rate_limit_leases WHERE key = 'term'").fetchone() in [(0,), None], 5,
                "the term is over")
            equal(consume(west, 1, "term", capacity=10000), 0)
    finally:
        regions.relay.set_down(False)
        regions.west.query("ALTER SYSTEM RESET ratelimit_region.lease_term")
        regions.west.query("SELECT pg_reload_conf()")
    wait_until(lambda: regions.west.state() == "there")


def test_what_is_idle_goes_back(regions):
    with regions.east.connect() as east:
        equal(consume(east, 12, "idle", capacity=10000), 12)
    check(regions.east.value("SELECT tokens FROM rate_limit_leases WHERE key = 'idle'") > 0, "a lease")
    level = "SELECT remaining FROM rl_peek('idle', 10000, 0, 0, 'quota')"
    wait_until(lambda: regions.home.value(level) == 9988, what="it is back")
    wait_until(lambda: not regions.east.query("SELECT 1 FROM rate_limit_leases WHERE key = 'idle'"))
    check(regions.home.value("SELECT returned FROM rate_limit_lease_servers WHERE server = 'east'") > 0,
          "the home shows it")


def test_a_crash_of_a_server_with_leases(regions):
    callers = Callers(regions.all, 2, key="crash", capacity=20000)
    for _ in range(5 if FULL else 1):
        time.sleep(0.5)
        regions.east.kill()
        regions.east.start()
    time.sleep(0.3)
    # one process only: the server starts anew, and with it shared memory
    pid = regions.east.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit leases'") \
        if regions.east.query("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit leases'") else None
    if pid:
        os.kill(pid, 9)
    wait_until(lambda: try_value(regions.east, "SELECT 1"))
    time.sleep(0.5)
    used = callers.stop()
    wait_until(lambda: try_value(regions.east, "SELECT 1"))
    used += regions.drain("crash", capacity=20000)
    print(f"#   {used} of 20000 used, the others are lost")
    check(5000 < used <= 20000, f"{used} of 20000 tokens")


def try_value(server, statement):
    try:
        return server.value(statement)
    except psycopg.Error:
        return None


def test_a_worker_that_is_terminated(regions):
    with regions.east.connect() as east:
        equal(consume(east, 12, "worker", capacity=1000), 12)
        equal(east.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                           "WHERE backend_type = 'ratelimit leases'").fetchall(), [(True,)])
        equal(regions.home.value("SELECT remaining FROM rl_peek('worker', 1000, 0, 0, 'quota')"), 988,
              "it has given back what there was")
        equal(consume(east, 12, "worker", capacity=1000), 12, "there is another one")


def test_a_stop_gives_back(regions):
    with regions.east.connect() as east:
        equal(consume(east, 12, "stop", capacity=1000), 12)
    began = time.monotonic()
    regions.east.stop()
    took = time.monotonic() - began
    regions.east.start()
    equal(regions.home.value("SELECT remaining FROM rl_peek('stop', 1000, 0, 0, 'quota')"), 988)
    check(took < 3, f"the stop took {took:.1f} s")


def test_a_stop_while_the_home_does_not_answer(regions):
    with regions.west.connect() as west:
        equal(consume(west, 12, "stop2", capacity=1000), 12)
    regions.relay.swallow = True
    try:
        began = time.monotonic()
        regions.west.stop()
        took = time.monotonic() - began
    finally:
        regions.relay.cut()
        regions.relay.swallow = False
    regions.west.start()
    check(took < 4, f"the stop took {took:.1f} s")


def test_a_home_that_starts_anew(regions):
    with regions.east.connect() as east:
        equal(consume(east, 100, "anew", capacity=1000), 100)
        held = regions.east.value("SELECT tokens FROM rate_limit_leases WHERE key = 'anew'")
        check(held > 0, "a lease")
        regions.home.stop()
        regions.home.start()
        wait_until(lambda: regions.east.state() == "there")
        # the bucket is as it was saved: what the lease has is void as soon as the home answers
        used = 100 + consume(east, 2000, "anew", capacity=1000)
        used += regions.drain("anew", capacity=1000)
        check(1000 - held <= used <= 1000, f"{used} of 1000, {held} were held")


def test_a_home_that_crashes(regions):
    """It has forgotten what it has given.  What others hold of that does not come on top."""
    with regions.east.connect() as east:
        equal(consume(east, 100, "crashed", capacity=1000), 100)
        held = regions.east.value("SELECT tokens FROM rate_limit_leases WHERE key = 'crashed'")
        check(held > 10, f"a lease: {held}")
        regions.east.query("ALTER SYSTEM SET ratelimit_region.lease_idle = '1h'")
        regions.east.query("SELECT pg_reload_conf()")
        regions.home.kill()
        regions.home.start()
        wait_until(lambda: regions.east.state() == "there")
        regions.east.query("ALTER SYSTEM SET ratelimit_region.lease_idle = '500ms'")
        regions.east.query("SELECT pg_reload_conf()")
        used = consume(east, 5000, "crashed", capacity=1000)
        used += regions.drain("crashed", capacity=1000)
        equal(used, 1000, f"since the crash, {held} were held before it")


def test_tokens_of_another_epoch(regions):
    equal(regions.home.value("SELECT rl_consume_upto('e', 10, 0, 8, 'epoch')"), 8)
    back = "SELECT rl_lease_return('s', rl_lease_epoch() - {}, '{{e}}', '{{epoch}}', '{{5}}')"
    equal(regions.home.value(back.format(1)), 0, "from before the home has started")
    equal(regions.home.value(back.format(0)), 5)
    equal(regions.home.value("SELECT remaining FROM rl_peek('e', 10, 0, 0, 'epoch')"), 7)


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
        equal(consume(east, 1, "q", capacity=100, refill=10, cost=100, limiter="res"), 1)
        row = east.execute("SELECT allowed, extract(epoch FROM retry_after)::float8 FROM rl_throttle_leased('q', 100, 10, 50, 'res')").fetchone()
        check(row[0] is False and 4.5 < row[1] <= 5, f"the wait that the home tells: {row}")
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


def test_a_home_with_another_encoding(regions):
    latin = Server("latin", encoding="LATIN1")
    latin.be_home()
    regions.east.lease_from(latin, name="latin", limiter="latin")
    with regions.east.connect() as east:
        east.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        equal(consume(east, 7, "ö", capacity=5, limiter="latin"), 5)
        others = Callers([regions.east], 3, key="plain", capacity=100, refill=100000, limiter="latin", retry=False)
        for _ in range(50):
            equal(consume(east, 1, "Ж", capacity=5, limiter="latin"), 0, "the home does not have the letter")
        allowed = others.stop()
    equal((others.problems, allowed), ([], others.calls), "others are not held up")
    equal(latin.value("SELECT tokens FROM rate_limit_status WHERE key = %s", "ö"), 0)
    latin.stop()
    check(not latin.crashed(), latin.crashed())


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


def test_no_room(regions):
    small = Server("small", ratelimit_region__max_leases="1024", ratelimit_region__lease_idle="1h")
    small.create()
    small.lease_from(regions.home)
    with small.connect() as connection:
        equal(consume(connection, 20, "room", capacity=100000), 20)
        equal(connection.execute("""
            SELECT count(*) FILTER (WHERE rl_consume_leased('room' || i, 100000, 0, 1, 'quota'))
            FROM generate_series(1, 1500) i""").fetchone()[0], 1500, "others give way, none of them fails")
        equal(connection.execute("""
            SELECT count(*), count(*) FILTER (WHERE key = 'room' AND tokens > 0) FROM rate_limit_leases""").fetchone(),
              (1024, 1), "the one with the most calls stays")
        equal(connection.execute("""
            SELECT round(taken - lost - (SELECT sum(tokens) FROM rate_limit_leases)) FROM rate_limit_home_states""").fetchone()[0],
              1520, "what gave way is lost")
    small.stop()
    check(not small.crashed(), small.crashed())


def test_no_room_at_all(regions):
    small = Server("tiny", ratelimit_region__max_leases="16", ratelimit_region__lease_idle="1h")
    small.create()
    small.lease_from(regions.home)
    with small.connect() as connection:
        connection.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        for i in range(40):
            consume(connection, 1, f"full{i}", capacity=100000)
        equal(connection.execute("SELECT count(*) FROM rate_limit_leases").fetchone()[0], 16)
        # a lease gives way only to keys under the same one of 64 locks
        connection.execute("SET ratelimit.on_error = error")
        states = {sqlstate(small, f"SELECT rl_consume_leased('none{i}', 100000, 0, 1, 'quota')") for i in range(40)}
        check("HV00N" in states and states <= {"HV00N", None}, states)
    small.stop()
    check(not small.crashed(), small.crashed())


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


def test_cancelled_calls(regions):
    regions.relay.delay = 0.3
    try:
        with regions.west.connect() as west:
            west.execute("SET statement_timeout = '100ms'")
            for i in range(3):
                try:
                    consume(west, 1, "cancel", capacity=1000, limiter="cancel")
                except psycopg.Error as error:
                    equal(error.sqlstate, "57014")
        pids = []

        def call():
            try:
                with regions.west.connect() as west:
                    pids.append(west.info.backend_pid)
                    consume(west, 1, "cancel2", capacity=1000, limiter="cancel")
            except psycopg.Error:
                pass

        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: pids)
        wait_until(lambda: regions.west.query("SELECT 1 FROM rate_limit_leases WHERE key = 'cancel2' AND waiting > 0"))
        regions.west.query("SELECT pg_terminate_backend(%s)", pids[0])
        thread.join()
        equal(regions.west.value("SELECT coalesce(sum(waiting), 0) FROM rate_limit_leases"), 0, "nobody waits")
    finally:
        regions.relay.delay = 0
    wait_until(lambda: regions.west.state() == "there")


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


def test_a_change_of_the_server(regions):
    """ALTER SERVER and ALTER USER MAPPING count at once."""
    with regions.west.connect() as west:
        equal(consume(west, 3, "alter", capacity=1000000), 3)
        regions.west.query("ALTER USER MAPPING FOR postgres SERVER home OPTIONS (SET user 'missing')")
        west.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        wait_until(lambda: consume(west, 1, "alter", capacity=1000000) + 1 and regions.west.state() == "away",
                   what="there is no such role")
        check("missing" in regions.west.state("error"), regions.west.state("error"))
        regions.west.query("ALTER USER MAPPING FOR postgres SERVER home OPTIONS (SET user 'region')")
        wait_until(lambda: consume(west, 1, "alter", capacity=1000000) + 1 and regions.west.state() == "there")
        equal(consume(west, 3, "alter2", capacity=100), 3)


def standby_of(server, name):
    standby = Server.__new__(Server)
    Server.port += 1
    Server.all.append(standby)
    standby.name, standby.port, standby.prefix = name, Server.port, ()
    standby.data, standby.log = os.path.join(WORK, name), os.path.join(WORK, name + ".log")
    program("pg_basebackup", "-h", WORK, "-p", str(server.port), "-U", "postgres",
            "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
    standby.configure(port=standby.port, cluster_name=name)
    standby.start()
    return standby


def test_a_standby(regions):
    """A standby of a region leases by itself."""
    standby = standby_of(regions.east, "standby")
    with standby.connect() as connection:
        equal(consume(connection, 10, "standby", capacity=20), 10)
    with regions.east.connect() as east:
        used = consume(east, 100, "standby", capacity=20)
    check(used <= 10, f"{used}")
    program("pg_ctl", "-D", standby.data, "-w", "promote")
    with standby.connect() as connection:
        used += consume(connection, 100, "standby", capacity=20)
    used += regions.drain("standby", capacity=20)
    equal(used, 10, "the other tokens")
    standby.stop()
    check(not standby.crashed(), standby.crashed())


def test_a_standby_of_the_home(regions):
    """
    It is promoted while leases are out.  Its buckets are full.  From then on all servers together use
    the capacity, and what a region that does not know of it yet has held.
    """
    capacity = 1000
    main = Server("main", ratelimit__save_interval="1h", wal_level="replica")
    main.be_home()
    spare = standby_of(main, "spare")
    knows, late = (Server(name, ratelimit_region__lease_idle="1h") for name in ("knows", "late"))
    relay = Relay(os.path.join(WORK, "late"), WORK, main.port)
    for server in (knows, late):
        server.create()
        server.query("ALTER SYSTEM SET client_min_messages = error")
    # a session that would be on a standby in recovery is none
    knows.lease_from(main, host=f"{WORK},{WORK}", port=f"{main.port},{spare.port}")
    knows.query("ALTER SERVER home OPTIONS (ADD target_session_attrs 'read-write')")
    late.lease_from(main, host=relay.folder, port=relay.port)
    held = {}
    with knows.connect() as here, late.connect() as there:
        for connection in (here, there):
            connection.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        used = consume(here, 100, "moves") + consume(there, 100, "moves")
        equal(used, 200)
        for server in (knows, late):
            held[server.name] = server.value("SELECT tokens FROM rate_limit_leases WHERE key = 'moves'")
            check(held[server.name] > 10, f"leases: {held}")
        main.kill()
        relay.set_down(True)
        # leases go on, and nobody takes tokens from the standby
        equal(consume(here, 5, "moves"), 5)
        held["knows"] -= 5
        wait_until(lambda: knows.state() == "away")
        equal(consume(here, 3, "new"), 0, "on_error")
        time.sleep(0.3)
        equal(spare.query("SELECT * FROM rate_limit_lease_servers"), [], "a standby gives no tokens")
        used += 5
        program("pg_ctl", "-D", spare.data, "-w", "promote")
        began = time.monotonic()
        relay.target = f"{WORK}/.s.PGSQL.{spare.port}"
        since = consume(there, 10, "moves")
        equal(since, 10, "the region that knows nothing uses its lease")
        wait_until(lambda: knows.state() == "there", what="the standby is found")
        found = time.monotonic() - began
        # calls everywhere until all is used: also of the promoted home itself
        callers = Callers([knows, late, spare], 2, key="moves")
        wait_until(lambda: callers.calls > 500)
        relay.set_down(False)
        wait_until(lambda: late.state() == "there")
        since += callers.stop()
        until = time.monotonic() + 20
        while time.monotonic() < until and since < capacity:
            since += consume(here, 100, "moves") + consume(there, 100, "moves")
            time.sleep(0.02)
        since += consume(here, 300, "moves") + consume(there, 300, "moves")
        check(capacity <= since <= capacity + held["late"], f"{since} of {capacity} and the {held['late']} held by one that did not know")
        lost = [server.state("lost") for server in (knows, late)]
        check(lost[0] >= held["knows"], f"what was held is void: {lost}, {held}")
    print(f"#   {since} used since the promotion, of {capacity} and {held['late']:g} held where nobody knew of it; "
          f"found after {found:.2f} s; {used} used before")
    for server in (knows, late, spare):
        server.stop()
        check(not server.crashed(), server.crashed())


def test_the_page(_):
    page()


def test_two_regions(_):
    return two_regions()


def test_the_simulation_predicts(_):
    predicted()


LONG = {test_databases_that_are_dropped, test_a_standby, test_a_standby_of_the_home, test_without_preloading, test_two_regions, test_the_simulation_predicts}


def main():
    names = [name for name in sys.argv[1:] if name != "full"]
    regions = Regions()
    passed = failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or (names and name not in names):
            continue
        if test in LONG and not FULL and not names:
            continue
        began = time.monotonic()
        try:
            skipped = test(regions)
        except Exception as error:  # noqa: BLE001
            import traceback

            failed += 1
            print(f"not ok {name[5:].replace('_', ' ')}: {error}")
            for line in traceback.format_exc().splitlines()[-8:]:
                print(f"#   {line}")
        else:
            if skipped:
                print(f"skipped: {name[5:].replace('_', ' ')}: {skipped}")
                continue
            passed += 1
            print(f"ok {name[5:].replace('_', ' ')} ({time.monotonic() - began:.1f} s)")
        sys.stdout.flush()
    for server in regions.all:
        try:
            server.stop()
        except RuntimeError as error:
            failed += 1
            print(f"not ok {server.name} stops: {error}")
        if server.crashed():
            failed += 1
            print(f"not ok {server.name} crashed:", *server.crashed())
    if failed:
        for server in regions.all:
            print(f"-- end of the log of {server.name}")
            with open(server.log, errors="replace") as log:
                print("".join(log.readlines()[-5:]))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
