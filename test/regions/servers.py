"""
Throwaway servers for the tests of scale/region, and what the tests do with them.

REGIONS_WORK is a folder for all of it, REGIONS_BIN has PostgreSQL's programs.
"""

import atexit
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import psycopg

WORK = os.environ["REGIONS_WORK"]
BIN = os.environ["REGIONS_BIN"]
FULL = sys.argv[1:2] == ["full"]


def program(name, *args, prefix=()):
    done = subprocess.run(
        [*prefix, os.path.join(BIN, name), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(args)}: {done.stdout}")
    return done.stdout


def wait_until(condition, seconds=60, what=""):
    """The value of a condition once it is true."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


def stop_all():
    for server in Server.all:
        if os.path.exists(os.path.join(server.data, "postmaster.pid")):
            try:
                server.stop("immediate")
            except RuntimeError:
                pass


atexit.register(stop_all)


class Server:
    """A server; programs of a network namespace are started with "prefix"."""

    port = 5500
    all = []

    def __init__(self, name, encoding="UTF8", prefix=(), **settings):
        Server.port += 1
        Server.all.append(self)
        self.name = name
        self.port = Server.port
        self.data = os.path.join(WORK, name)
        self.log = os.path.join(WORK, name + ".log")
        self.prefix = prefix
        template = os.path.join(WORK, "template." + encoding)
        if not os.path.exists(template):
            program("initdb", "-D", template, "-U", "postgres", "-A", "trust",
                    "-E", encoding, "--no-locale", "--no-sync")
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(template, self.data, symlinks=True)
        defaults = dict(
            shared_preload_libraries="ratelimit,ratelimit_region",
            fsync="off",
            listen_addresses="",
            unix_socket_directories=WORK,
            port=self.port,
            cluster_name=name,
            # what is pending stays so, until a test has looked at it
            ratelimit__flush_interval="1h",
            # a slow machine is no home that is away
            ratelimit_region__timeout="30s",
        )
        self.configure(**{**defaults, **settings})
        self.start()

    def configure(self, **settings):
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            for name, value in settings.items():
                conf.write(f"{name.replace('__', '.')} = '{value}'\n")

    def start(self):
        program("pg_ctl", "-D", self.data, "-l", self.log, "-w", "start", prefix=self.prefix)

    def stop(self, mode="fast"):
        program("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def kill(self):
        """As if the machine had lost its power."""
        with open(os.path.join(self.data, "postmaster.pid")) as file:
            pid = int(file.readline())
        # it starts no more processes
        os.kill(pid, signal.SIGSTOP)
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(child) for child in file.read().split()]
        for process in [pid, *children]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(lambda: not any(alive(p) for p in [pid, *children]), what="processes are gone")
        # whoever reaps them may be slow, and then they seem to be there
        os.remove(os.path.join(self.data, "postmaster.pid"))
        os.remove(os.path.join(WORK, f".s.PGSQL.{self.port}.lock"))

    def connect(self, database="postgres", user="postgres", **options):
        return psycopg.connect(
            host=WORK, port=self.port, dbname=database, user=user, autocommit=True, **options
        )

    def query(self, statement, *values, database="postgres", user="postgres"):
        """The rows of a statement, in a session of its own."""
        with self.connect(database, user) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else None

    def value(self, statement, *values, **options):
        return self.query(statement, *values, **options)[0][0]

    def create(self, database="postgres"):
        """The extensions."""
        self.query("CREATE EXTENSION ratelimit", database=database)
        self.query("CREATE EXTENSION postgres_fdw", database=database)
        self.query("CREATE EXTENSION ratelimit_region", database=database)

    def be_home(self, network=None):
        """The role that other servers connect as, from a network if need be."""
        if network:
            with open(os.path.join(self.data, "pg_hba.conf"), "a") as hba:
                hba.write(f"host all all {network} trust\n")
            self.query("SELECT pg_reload_conf()")
        self.create()
        self.query("CREATE ROLE region LOGIN")
        self.query("GRANT EXECUTE ON FUNCTION rl_lease_epoch, rl_lease_take, rl_lease_return TO region")

    def lease_from(self, home, host=None, port=None, name="home", limiter="*", database="postgres"):
        """Have keys of a limiter at a home."""
        self.query(
            f"CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
            f"(host '{host or WORK}', port '{port or home.port}', dbname 'postgres')",
            database=database,
        )
        self.query(
            f"CREATE USER MAPPING FOR postgres SERVER {name} OPTIONS (user 'region')",
            database=database,
        )
        self.query("INSERT INTO rate_limit_homes VALUES (%s, '', %s)", limiter, name,
                   database=database)

    def state(self, column="state", database="postgres"):
        rows = self.query(f"SELECT {column} FROM rate_limit_home_states", database=database)
        return rows[0][0] if rows else None

    def crashed(self):
        """Lines of the log that say so, other than by kill()."""
        with open(self.log, errors="replace") as log:
            return [line for line in log if "PANIC:" in line or "TRAP:" in line or "runtime error:" in line or
                    ("terminated by signal" in line and "signal 9" not in line)]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def consume(connection, n, key="k", capacity=1000, refill=0, cost=1, limiter="quota"):
    """How many of n calls are allowed."""
    return connection.execute(
        "SELECT count(*) FILTER (WHERE rl_consume_leased(%s, %s, %s, %s, %s)) FROM generate_series(1, %s)",
        (key, capacity, refill, cost, limiter, n),
    ).fetchone()[0]


def leased(server, connection, calls, key, least=0, **call):
    """
    Make calls, which are all allowed, until there is a lease with more tokens than that: on a slow
    machine it may have gone back meanwhile.  How many calls there were, and its tokens.
    """
    used = 0
    for n in [calls, *100 * [1]]:
        allowed = consume(connection, n, key, **call)
        if allowed != n:
            raise AssertionError(f"{allowed} of {n} calls are allowed")
        used += n
        found = server.query("SELECT tokens FROM rate_limit_leases WHERE key = %s", key)
        if found and found[0][0] > least:
            return used, found[0][0]
    raise AssertionError(f"no lease of {key} with more than {least} tokens: {found}")


class Callers:
    """
    Threads that call on servers until they are stopped, each with a session of its own, with
    one key, or with so many.
    """

    def __init__(self, servers, threads, batch=20, retry=True, pause=0, keys=None, **call):
        self.allowed = 0
        self.by_key = {}
        self.keys = keys
        self.calls = 0
        self.errors = 0
        self.problems = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [
            threading.Thread(target=self.run, args=(server, batch, retry, pause, call), daemon=True)
            for server in servers
            for _ in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, server, batch, retry, pause, call):
        connection = None
        while not self.ended.is_set():
            try:
                if connection is None:
                    connection = server.connect()
                    connection.execute("SET client_min_messages = error")
                # one call a statement: an error says nothing about others
                for _ in range(batch):
                    one = call
                    if self.keys:
                        one = {**call, "key": f"{call['key']}{random.randrange(self.keys)}"}
                    allowed = consume(connection, 1, **one)
                    with self.lock:
                        self.by_key[one["key"]] = self.by_key.get(one["key"], 0) + allowed
                        self.calls += 1
                        self.allowed += allowed
            except psycopg.Error as error:
                with self.lock:
                    self.errors += 1
                    if not retry:
                        self.problems.append(error)
                if connection is None or connection.closed or connection.broken:
                    connection = None
                    time.sleep(0.05)
                # an error of a call: what it has taken was not used
                time.sleep(0.002)
            time.sleep(pause)

    def go_on(self, calls=1000):
        """Wait until there have been so many calls more."""
        before = self.calls
        wait_until(lambda: self.calls >= before + calls)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        return self.allowed
