"""
Homes that talk nonsense, callers and keys that are hostile, and
what is there no more.
"""

import itertools
import os
import socket
import threading
import time

import psycopg

from checks import check, equal
from liar import Liar, message, rows
from servers import WORK, Server, consume, wait_until


def test_a_home_that_talks_nonsense(regions):
    liar = Liar(os.path.join(WORK, "liar"))
    server = Server("lied", ratelimit_region__timeout="200ms")
    server.create()
    server.lease_from(regions.home)
    server.lease_from(None, host=liar.folder, port=liar.port, name="liar", limiter="liar")
    good = liar.answer
    answers = {
        "nothing": b"",
        "no query": message(b"I"),
        "a command": message(b"C", b"SELECT 1\0"),
        "a copy to here": message(b"H", b"\0\0\0"),
        "a copy from here": message(b"G", b"\0\0\0"),
        "no row": rows(),
        "two rows": rows(*2 * [("10", "10", "0", "7")]),
        "many rows": rows(*20000 * [("10", "10", "0", "7")]),
        "three columns": rows(("10", "10", "0")),
        "nulls": rows((None, None, None, None)),
        "words": rows(("many", "few", "never", "then")),
        "NaN": rows(("NaN", "NaN", "NaN", "7")),
        "infinity": rows(("Infinity", "Infinity", "Infinity", "7")),
        "below 0": rows(("-10", "-10", "-10", "-7")),
        "too many tokens": rows(("1000000000", "10", "0", "7")),
    }
    with server.connect() as connection:
        connection.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        for what, answer in answers.items():
            liar.answer = good
            key = what

            def allowed():
                return consume(connection, 1, "good" + key, limiter="liar")

            wait_until(allowed, what=f"it is there before {what}")
            liar.answer = answer
            equal(consume(connection, 3, key, limiter="liar"), 0, what)
            # in time, which a slow machine does not always do
            attempts = itertools.count()
            wait_until(lambda: consume(connection, 3, f"honest{key}{next(attempts)}", capacity=3) == 3, what=f"after {what} others are asked")
            liar.answer = good
            wait_until(lambda: consume(connection, 1, key, limiter="liar"), what=f"it answers after {what}")
        row = connection.execute("SELECT taken, returned, lost, tokens FROM rate_limit_home_states WHERE server = 'liar'").fetchone()
        assert all(0 <= value < 1e6 for value in row), f"figures: {row}"
        liar.answer = message(b"N", b"SWARNING\0C01000\0Mhello,\n2026-11-28 LOG:  all is well\0\0") + good
        wait_until(lambda: consume(connection, 1, "notice", limiter="liar"), what="it answers with a notice")
    # once in a while, the machine is slow
    for i in range(3):
        began = time.monotonic()
        server.stop()
        took = time.monotonic() - began
        if took < 3:
            break
        check(i < 2, f"the stop took {took:.1f} s")
        server.start()
        with server.connect() as connection:
            wait_until(lambda: consume(connection, 1, "stop", limiter="liar"), what="it answers before the stop")
    with open(server.log) as log:
        check("all is well" not in log.read(), "a home writes into the log")
    check(not server.crashed(), server.crashed())


def test_a_home_that_fails_while_it_gets_tokens_back(regions):
    """What it has got by then must not come twice."""
    home = regions.home
    keys = [f"twice{i}" for i in range(5)]
    home.query("ALTER FUNCTION rl_lease_return(text, bigint, text[], text[], float8[]) RENAME TO all_of_it")
    home.query("""
        CREATE FUNCTION rl_lease_return(text, bigint, text[], text[], float8[]) RETURNS float8
        SECURITY DEFINER SET search_path = public LANGUAGE plpgsql AS $$ BEGIN
            IF cardinality($3) = 1 THEN
                RETURN all_of_it($1, $2, $3, $4, $5);
            END IF;
            PERFORM all_of_it($1, $2, $3[:1], $4[:1], $5[:1]);
            RAISE 'the rest is lost';
        END $$""")
    try:
        with regions.east.connect() as east:
            for key in keys:
                equal(consume(east, 1, key, capacity=100), 1)
        wait_until(lambda: not regions.east.query("SELECT 1 FROM rate_limit_leases WHERE key LIKE 'twice%%'"),
                   what="all of it went back")
        wait_until(lambda: "the rest is lost" in (regions.east.state("error") or ""))
        levels = [home.value("SELECT remaining FROM rl_peek(%s, 100, 0, 0, 'quota')", key) for key in keys]
        check(max(levels) <= 99, f"one token of 100 was used of each key, and left are {levels}")
    finally:
        home.query("DROP FUNCTION rl_lease_return(text, bigint, text[], text[], float8[])")
        home.query("ALTER FUNCTION all_of_it(text, bigint, text[], text[], float8[]) RENAME TO rl_lease_return")


def test_a_long_message_of_a_home(regions):
    """It is cut, but not within a character."""
    home = regions.home
    home.query("ALTER FUNCTION rl_lease_take(text, text[], text[], float8[], float8[], float8[], float8[]) RENAME TO another")
    try:
        for message in ("ä" * 200, "x" + "ä" * 200):
            home.query(f"""
                CREATE OR REPLACE FUNCTION rl_lease_take(text, text[], text[], float8[], float8[], float8[], float8[])
                RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE '{message}'; END $$""")
            with regions.east.connect() as east:
                east.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
                equal(consume(east, 1, f"long{len(message)}"), 0)
            wait_until(lambda: message[:100] in (regions.east.state("error") or ""), what=message)
        home.query("DROP FUNCTION rl_lease_take(text, text[], text[], float8[], float8[], float8[], float8[])")
    finally:
        home.query("ALTER FUNCTION another(text, text[], text[], float8[], float8[], float8[], float8[]) RENAME TO rl_lease_take")


def test_a_bad_key_costs_others_nothing(regions):
    """A key that the home refuses, for example because it is longer in the home's encoding"""
    home = regions.home
    for bad in ("repeat('k', 256)", "''"):
        try:
            home.query(f"SELECT rl_lease_take('s', ARRAY['other', {bad}], '{{quota,quota}}', '{{10,10}}', '{{0,0}}', '{{5,5}}', '{{5,5}}')")
        except psycopg.Error as error:
            check(error.sqlstate in ("54000", "22023"), error)
        else:
            check(False, "there is no error")
    for needed, wanted in ((-1, 5), (5, -1), ("NaN", 5), (5, "NaN")):
        try:
            home.query(f"SELECT rl_lease_take('s', '{{other,other2}}', '{{quota,quota}}', '{{10,10}}', '{{0,0}}', '{{5,{needed}}}', '{{5,{wanted}}}')")
        except psycopg.Error as error:
            equal(error.sqlstate, "22023")
        else:
            check(False, f"{needed}, {wanted} are taken")
    equal(home.value("SELECT remaining FROM rl_peek('other', 10, 0, 0, 'quota')"), 10)


def test_homes_that_are_replicated(regions):
    """Sessions notice rows that come from another server."""
    server = Server("copies", wal_level="logical")
    server.query("CREATE DATABASE copy")
    for database in ("postgres", "copy"):
        server.create(database)
    server.query("CREATE PUBLICATION homes FOR TABLE rate_limit_homes")
    server.query("SELECT pg_create_logical_replication_slot('homes', 'pgoutput')")
    server.query(f"CREATE SUBSCRIPTION homes CONNECTION 'host={WORK} port={server.port} dbname=postgres user=postgres' "
                 "PUBLICATION homes WITH (create_slot = false)", database="copy")

    def is_here(session):
        try:
            return consume(session, 1, "k", limiter="copied") == 1
        except psycopg.Error as error:
            equal(error.sqlstate, "42704")

    with server.connect("copy") as session:
        check(is_here(session), "no rule")
        server.query("INSERT INTO rate_limit_homes VALUES ('copied', '', 'no_such_server')")
        wait_until(lambda: not is_here(session), what="a rule has come")
        server.query("DELETE FROM rate_limit_homes")
        wait_until(lambda: is_here(session), what="it is gone again")
        server.query("INSERT INTO rate_limit_homes VALUES ('copied', '', 'no_such_server')")
        wait_until(lambda: not is_here(session), what="a rule has come again")
        server.query("TRUNCATE rate_limit_homes")
        wait_until(lambda: is_here(session), what="all rules are gone")
    server.query("DROP SUBSCRIPTION homes", database="copy")
    server.stop()
    check(not server.crashed(), server.crashed())


def test_figures_of_very_many_tokens(regions):
    before = regions.east.state("taken")
    with regions.east.connect() as east:
        equal(consume(east, 1, "very many", capacity=1e12, cost=1e11), 1)
    taken = regions.east.state("taken") - before
    check(1e11 <= taken <= 1e12, taken)


def test_databases_that_are_dropped(regions):
    """Their workers and homes make room for those of others."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    full = []
    while True:
        full.append(socket.socket())
        full[-1].settimeout(0.2)
        try:
            full[-1].connect(hole.getsockname())
        except OSError:
            break
    server = Server("dropped", ratelimit_region__timeout="60s")
    server.query("CREATE DATABASE template")
    server.create("template")
    server.query("CREATE SERVER hole FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '"
                 f"{hole.getsockname()[1]}', dbname 'postgres')", database="template")
    server.query("CREATE USER MAPPING FOR postgres SERVER hole", database="template")
    server.query("INSERT INTO rate_limit_homes VALUES ('*', '', 'hole')", database="template")

    def call(name):
        try:
            with server.connect(name) as connection:
                consume(connection, 1)
        except psycopg.Error:
            pass

    for i in range(70):
        server.query(f"CREATE DATABASE d{i} TEMPLATE template STRATEGY file_copy")
        thread = threading.Thread(target=call, args=(f"d{i}",))
        thread.start()
        wait_until(lambda: server.query(
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit leases' AND datname = %s", f"d{i}"))
        wait_until(lambda: server.query("SELECT 1 FROM rate_limit_leases WHERE waiting > 0", database=f"d{i}"))
        server.query(f"DROP DATABASE d{i} WITH (FORCE)")
        thread.join()
    server.create()
    server.lease_from(regions.home)
    with server.connect() as connection:
        equal(consume(connection, 5, "dropped", capacity=100), 5, "there is room for a worker and a home")
    server.stop()
    check(not server.crashed(), server.crashed())
    for client in [hole, *full]:
        client.close()


__all__ = [name for name in dir() if name.startswith("test_")]
