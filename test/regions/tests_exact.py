"""However servers and links fail, no token is used twice; and which tokens are lost."""

import os
import time

from checks import check, equal, try_value
from servers import FULL, Callers, Server, consume, leased, wait_until


def test_exactly_the_capacity_over_all_servers(regions):
    callers = Callers(regions.all, 3, key="all", capacity=2000, retry=False)
    try:
        wait_until(lambda: callers.calls > 3000, what="calls are made")
    finally:
        used = callers.stop()
    check(used <= 2000, f"{used} of 2000 tokens")
    used += regions.drain("all", capacity=2000)
    equal(used, 2000, "tokens used")
    equal(callers.problems, [])


def test_never_more_than_capacity_and_refill(regions):
    # nearly all of it is used, unless the machine is slow and buckets are full meanwhile
    for i in range(4):
        began = time.monotonic()
        callers = Callers(regions.all, 2, key=f"rate{i}", capacity=50, refill=200, retry=False)
        time.sleep(1.5)
        used = callers.stop()
        most = 50 + 200 * (time.monotonic() - began)
        print(f"#   {used} of at most {most:.0f} in {callers.calls} calls")
        check(used <= most, f"{used}, above {most}")
        if used >= 0.8 * most:
            return
    check(False, f"{used}, far below {most}")


def test_links_that_break_at_any_moment(regions):
    # many keys, so that portions are nearly always under way
    keys, capacity = 10, 100000 if FULL else 2000
    regions.relay.delay = 0.01
    callers = Callers([regions.west] * 3 + [regions.east], 1, key="breaks", keys=keys, capacity=capacity)
    regions.relay.trouble(60 if FULL else 2, 19, lambda: regions.west.state() == "there", lambda: regions.west.state("failed") > 5)
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


def test_what_is_idle_goes_back(regions):
    with regions.east.connect() as east:
        used, _ = leased(regions.east, east, 12, "idle", capacity=10000)
    level = "SELECT remaining FROM rl_peek('idle', 10000, 0, 0, 'quota')"
    wait_until(lambda: regions.home.value(level) == 10000 - used, what="it is back")
    wait_until(lambda: not regions.east.query("SELECT 1 FROM rate_limit_leases WHERE key = 'idle'"))
    check(regions.home.value("SELECT returned FROM rate_limit_lease_servers WHERE server = 'east'") > 0,
          "the home shows it")


def test_a_crash_of_a_server_with_leases(regions):
    callers = Callers(regions.all, 2, key="crash", capacity=20000)
    for _ in range(5 if FULL else 1):
        callers.go_on()
        regions.east.kill()
        regions.east.start()
    callers.go_on()
    # one process only: the server starts anew, and with it shared memory
    pid = regions.east.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit leases'") \
        if regions.east.query("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit leases'") else None
    if pid:
        os.kill(pid, 9)
    wait_until(lambda: try_value(regions.east, "SELECT 1"))
    callers.go_on()
    used = callers.stop()
    wait_until(lambda: try_value(regions.east, "SELECT 1"))
    used += regions.drain("crash", capacity=20000)
    print(f"#   {used} of 20000 used, the others are lost")
    check(5000 < used <= 20000, f"{used} of 20000 tokens")


def test_a_worker_that_is_terminated(regions):
    with regions.east.connect() as east:
        equal(consume(east, 12, "worker", capacity=1000), 12)
        equal(east.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                           "WHERE backend_type = 'ratelimit leases'").fetchall(), [(True,)])
        equal(regions.home.value("SELECT remaining FROM rl_peek('worker', 1000, 0, 0, 'quota')"), 988,
              "it has given back what there was")
        equal(consume(east, 12, "worker", capacity=1000), 12, "there is another one")


def test_a_stop_gives_back(regions):
    # once in a while, the machine is slow
    for i in range(3):
        with regions.east.connect() as east:
            equal(consume(east, 12, f"stop{i}", capacity=1000), 12)
        began = time.monotonic()
        regions.east.stop()
        took = time.monotonic() - began
        regions.east.start()
        equal(regions.home.value("SELECT remaining FROM rl_peek(%s, 1000, 0, 0, 'quota')", f"stop{i}"), 988)
        if took < 3:
            return
    check(False, f"the stop took {took:.1f} s")


def test_a_home_that_starts_anew(regions):
    with regions.east.connect() as east:
        used, held = leased(regions.east, east, 100, "anew", capacity=1000)
        regions.home.stop()
        wait_until(lambda: regions.east.state() != "there", what="the home is away")
        regions.home.start()
        wait_until(lambda: regions.east.state() == "there")
        # the bucket is as it was saved: what the lease has is void as soon as the home answers
        used += consume(east, 2000, "anew", capacity=1000)
        used += regions.drain("anew", capacity=1000)
        check(1000 - held <= used <= 1000, f"{used} of 1000, {held} were held")


def test_a_home_that_crashes(regions):
    """It has forgotten what it has given.  What others hold of that does not come on top."""
    with regions.east.connect() as east:
        regions.east.query("ALTER SYSTEM SET ratelimit_region.lease_idle = '1h'")
        regions.east.query("SELECT pg_reload_conf()")
        _, held = leased(regions.east, east, 100, "crashed", least=10, capacity=1000)
        regions.home.kill()
        wait_until(lambda: regions.east.state() != "there", what="the home is away")
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
