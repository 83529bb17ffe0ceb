"""Servers of these tests: nodes with ratelimit, and a proxy in front of them.

They are made in $PGHOST, a folder, with one socket each there, and listen on no network: except
those that a test needs to reach by TCP, on 127.0.0.1.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import psycopg

import document

WORK = Path(os.environ["PGHOST"])
FULL = bool(os.environ.get("RATELIMIT_FULL"))
SECONDS = int(os.environ.get("RATELIMIT_SECONDS", "5"))
SEED = int(os.environ.get("RATELIMIT_SEED") or "1")

SETTINGS = """
fsync = off
unix_socket_directories = '{work}'
listen_addresses = ''
port = {port}
max_connections = 100
shared_buffers = 16MB
wal_level = logical
ratelimit.flush_interval = 1h
max_wal_senders = 10
autovacuum = off
log_min_messages = warning
"""


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def children_of(parent: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            children.append(int(stat.parent.name))
    return children


class Server:
    """A server, which can be started, stopped and killed."""

    def __init__(self, name: str, port: int, settings: str = "", of: Server | None = None) -> None:
        self.name = name
        self.port = port
        self.data = WORK / name
        if of:
            run("pg_basebackup", "-h", str(WORK), "-p", str(of.port), "-U", "postgres", "-D", str(self.data),
                "-R", "-c", "fast", "--no-sync")
            with open(self.data / "postgresql.conf", "a") as conf:
                conf.write(f"port = {port}\n{settings}\n")
        else:
            run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            with open(self.data / "postgresql.conf", "a") as conf:
                conf.write(SETTINGS.format(work=WORK, port=port) + settings + "\n")
        self.start()

    def start(self, *options: str, prefix: Sequence[str] = ()) -> None:
        """With options of postgres; "prefix" starts it in a network namespace."""
        # in a session of its own, so that an interruption waits until it has started
        run("setsid", "-w", *prefix, "pg_ctl", "-D", str(self.data), "-l", str(WORK / f"{self.name}.log"), "-w", "-o", " ".join(options), "start")

    def start_again(self) -> None:
        """After kill(): not before the last of its processes has ended, which keep its memory."""

        def started() -> bool:
            try:
                self.start()
            except RuntimeError:
                return False
            return True

        until(started)

    def stop(self) -> None:
        run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "stop")

    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """As a machine that loses power: every process at once, without a word."""
        postmaster = self.pid()
        for pid in [postmaster, *children_of(postmaster)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        until(lambda: not alive(postmaster))

    def connect(self, user: str = "postgres", database: str = "postgres", **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(WORK), port=self.port, user=user, dbname=database, autocommit=True, **more)

    def ask(self, query: str, *args: Any, **more: Any) -> Any:
        """All rows, in a session of its own."""
        with self.connect(**more) as connection:
            cursor = connection.execute(query, args or None)
            return cursor.fetchall() if cursor.description else None

    def one(self, query: str, *args: Any, **more: Any) -> Any:
        return self.ask(query, *args, **more)[0][0]

    def location(self) -> str:
        """As rate_limit_nodes.connection has it."""
        return f"host={WORK} port={self.port} dbname=postgres"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TooLate(AssertionError):
    """A call has taken too long."""


def not_too_late(test: Callable[[Any], None]) -> Callable[[Any], None]:
    """Once in a while, the machine is slow. A test that is too late three times in turn has failed."""

    @functools.wraps(test)
    def run_test(self: Any) -> None:
        for _ in range(2):
            try:
                return test(self)
            except TooLate:
                self.tearDown()
        return test(self)

    return run_test


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until it is true, and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{condition} did not become true")
        time.sleep(0.05)


NODES = ["n1", "n2", "n3"]
MOVE_WAIT = "60s"
servers: dict[str, Server] = {}


PORTS = {"proxy": 6100, "n1": 6101, "n2": 6102, "n3": 6103, "alone": 6104, "n1-standby": 6105, "n4": 6106, "second": 6107, "proxy-standby": 6108, "copy": 6109}


def make_node(server: Server) -> None:
    """A node that has no policies yet."""
    server.ask("CREATE EXTENSION ratelimit; CREATE EXTENSION ratelimit_node")
    server.ask("CREATE ROLE ratelimit_proxy LOGIN")
    server.ask("SELECT rl_node_admit('ratelimit_proxy')")


def make_servers() -> None:
    """Three nodes and a proxy as the document sets them up, and a server by itself: once for all tests."""
    if servers:
        return
    for name in [*NODES, "alone"]:
        servers[name] = Server(name, PORTS[name], "shared_preload_libraries = ratelimit")
    servers["alone"].ask("CREATE EXTENSION ratelimit")
    servers["proxy"] = Server("proxy", PORTS["proxy"])

    setup = [block for block in document.blocks() if block.section == "Set up"]
    for block in setup:
        for name in NODES if block.where == "each node" else ["proxy"]:
            said = document.run_block(block, str(WORK), PORTS, PORTS[name], name)
            if re.search("ERROR|FATAL", said):
                raise RuntimeError(f"{block.sql}\n{said}")
    # a busy machine may take long for a move
    servers["proxy"].ask("UPDATE rate_limit_proxy SET move_wait = %s", MOVE_WAIT)
    for name in ["proxy", "alone"]:
        servers[name].ask("CREATE ROLE app LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor")


def node_of(key: str, limiter: str = "default") -> str:
    """The name of the node that has a key."""
    return str(servers["proxy"].one(
        "SELECT node FROM rate_limit_partitions WHERE partition = _rl_partition(%s, %s)", key, limiter))


def key_on(node: str, prefix: str = "k", limiter: str = "default") -> str:
    """A key that the node has."""
    return str(servers["proxy"].one(
        "SELECT k FROM (SELECT %s || i AS k FROM generate_series(1, 1000) i) keys JOIN rate_limit_partitions p"
        " ON p.partition = _rl_partition(k, %s) WHERE p.node = %s LIMIT 1", prefix, limiter, node))


def move(key: str, target: str) -> int:
    """Move a key's partition while it is called: how many buckets are moved."""

    def moved() -> tuple[int] | None:
        try:
            return (int(servers["proxy"].one("CALL rl_move_partition(_rl_partition(%s, 'default'), %s)", key, target)),)
        except psycopg.errors.LockNotAvailable:
            # a call on the node takes longer than a second, as on a slow machine
            return None

    return int(until(moved)[0])


def error_of(server: str, query: str, **more: str) -> tuple[str | None, ...]:
    try:
        servers[server].ask(query, **more)
    except psycopg.Error as error:
        return error.diag.sqlstate, error.diag.message_primary, error.diag.message_detail, error.diag.message_hint
    return ("no error",)
