"""What calls do when a home, a link or a server is away, and how long that takes."""

import os
import socket
import threading
import time

import psycopg

from checks import check, equal, sqlstate
from relay import Relay
from servers import FULL, WORK, Callers, Server, consume, program, wait_until


def test_a_home_that_is_away(regions):
    with regions.west.connect() as west:
        west.execute("SET client_min_messages = error")
        got = consume(west, 20, "away", capacity=10000, limiter="away")
        equal(got, 20)
        # there is a lease when the link breaks; from then on nothing comes, and nothing goes back
        for i in range(20):
            regions.relay.set_down(True)
            wait_until(lambda: regions.west.state() == "away")
            held = regions.west.query("SELECT tokens FROM rate_limit_leases WHERE key = 'away'")
            if held and held[0][0] >= 1:
                break
            regions.relay.set_down(False)
            wait_until(lambda: regions.west.state() == "there")
            equal(consume(west, 20, "away", capacity=10000, limiter="away"), 20)
        held = held[0][0]
        west.execute("SET ratelimit.on_error = deny")
        got = consume(west, int(held) + 50, "away", capacity=10000, limiter="away")
        equal(got, int(held), "leases run out")
        west.execute("SET ratelimit.on_error = allow")
        equal(consume(west, 7, "away", capacity=10000, limiter="away"), 7)
        west.execute("SET ratelimit.on_error = error")
        times = []
        for _ in range(5):
            try:
                began = time.monotonic()
                consume(west, 1, "away", capacity=10000, limiter="away")
            except psycopg.Error as error:
                equal(error.sqlstate, "HV00N")
                times.append(time.monotonic() - began)
            else:
                check(False, "there is no error")
        check(min(times) < 0.5, f"calls are decided at once: {times}")
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
        regions.west.query("ALTER SYSTEM SET ratelimit_region.timeout = '1s'")
        regions.west.query("SELECT pg_reload_conf()")
        with regions.west.connect() as west:
            west.execute("SET client_min_messages = error; SET ratelimit.on_error = deny; SET ratelimit_region.timeout = '1s'")
            # once in a while, the machine is slow
            for attempt in range(3):
                regions.west.lease_from(None, host="127.0.0.1", port=port, name="silent", limiter="silent")
                times = []
                for _ in range(3):
                    began = time.monotonic()
                    equal(consume(west, 1, "s", limiter="silent"), 0)
                    times.append(time.monotonic() - began)
                # calls that keep waking the worker while it connects
                callers = Callers([regions.west], 2, key="s", limiter="silent")
                worst = denied = 0
                for i in range(100):
                    began = time.monotonic()
                    denied += 1 - consume(west, 1, f"beside silent {i}", capacity=100)
                    worst = max(worst, time.monotonic() - began)
                equal(callers.stop(), 0)
                if 0.9 < times[0] < 1.5 and max(times[1:]) < 0.3 and worst < 0.5 and denied == 0:
                    break
                check(attempt < 2, f"one call waits for the timeout, not: {times}; {denied} calls on another home are denied, and one took {worst:.2f} s")
                regions.west.query("DELETE FROM rate_limit_homes WHERE limiter = 'silent'; DROP SERVER silent CASCADE")
            if FULL:
                # the next host is tried before the connection is given up
                regions.west.query(f"ALTER SERVER silent OPTIONS (SET host '127.0.0.1,{WORK}', SET port '{port},{regions.home.port}')")
                wait_until(lambda: consume(west, 1, "s", limiter="silent"), 15, "the second host decides")
        regions.west.query("DELETE FROM rate_limit_homes WHERE limiter = 'silent'; DROP SERVER silent CASCADE")
        regions.west.query("ALTER SYSTEM RESET ratelimit_region.timeout")
        regions.west.query("SELECT pg_reload_conf()")


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
                "SELECT tokens FROM rate_limit_leases WHERE key = 'term'").fetchone() in [(0,), None],
                what="the term is over")
            equal(consume(west, 1, "term", capacity=10000), 0)
    finally:
        regions.relay.set_down(False)
        regions.west.query("ALTER SYSTEM RESET ratelimit_region.lease_term")
        regions.west.query("SELECT pg_reload_conf()")
    with regions.west.connect() as west:
        west.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        # nobody tries to reach a home that no lease is of
        wait_until(lambda: consume(west, 1, "after the term", capacity=10000), what="the home is there again")


def test_a_stop_while_the_home_does_not_answer(regions):
    # once in a while, the machine is slow
    for i in range(3):
        with regions.west.connect() as west:
            equal(consume(west, 12, f"without an answer{i}", capacity=1000), 12)
        regions.relay.swallow = True
        try:
            began = time.monotonic()
            regions.west.stop()
            took = time.monotonic() - began
        finally:
            regions.relay.cut()
            regions.relay.swallow = False
        regions.west.start()
        if took < 4:
            return
    check(False, f"the stop took {took:.1f} s")


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
        regions.relay.delay = 0
        # until it is terminated
        regions.relay.swallow = True
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
        # it says that it ends before it has
        wait_until(lambda: regions.west.value("SELECT coalesce(sum(waiting), 0) FROM rate_limit_leases") == 0, what="nobody waits")
    finally:
        regions.relay.delay = 0
        regions.relay.cut()
        regions.relay.swallow = False
    wait_until(lambda: regions.west.state() == "there")


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
    main = Server("main", ratelimit__save_interval="1h", wal_level="replica", ratelimit_region__timeout="1s")
    main.be_home()
    spare = standby_of(main, "spare")
    knows, late = (Server(name, ratelimit_region__lease_idle="1h", ratelimit_region__timeout="1s") for name in ("knows", "late"))
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
