"""The examples in clients/examples do what they say: each is built, runs as a server of its own, and is asked.

An example whose compiler or packages are not installed is skipped, unless all have to be there
(RATELIMIT_EXAMPLES=all). Go's takes long to be built, so it runs then only, and so do the tests
that wait.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support import AMPLE, Proxy, free_port, fresh, sql, until

TOP = Path(__file__).resolve().parent.parent.parent.parent
EXAMPLES = TOP / "clients/examples"
ALL = os.environ.get("RATELIMIT_EXAMPLES") == "all"

CAPACITY, REFILL = 100, 10
PATIENCE = 5.0  # seconds in which a request has to be answered without the database

JARS = [
    "/usr/share/java/postgresql.jar",
    "/usr/share/java/HikariCP.jar",
    "/usr/share/java/slf4j-api.jar",
    "/usr/share/java/tomcat10-embed-core.jar",
    "/usr/share/java/jakarta-annotation-api.jar",
]


def needs(*paths: str, always: bool = True) -> Any:
    """Programs, or files that a pattern matches."""
    missing = [path for path in paths if not (glob.glob(path) if path.startswith("/") else shutil.which(path))]
    reason = f"{', '.join(missing)} not installed" if missing else "with test/clients/run full only"
    return unittest.skipIf(not ALL and bool(missing or not always), reason)


full_only = unittest.skipUnless(ALL, "with test/clients/run full only")


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read().decode()


class Example(unittest.TestCase):
    """A folder of clients/examples, copied and built."""

    name: str
    folder: str
    proxy: Proxy

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        shutil.copytree(EXAMPLES / cls.name, cls.folder, dirs_exist_ok=True)
        cls.proxy = cls.enterClassContext(Proxy(tcp=True))
        cls.build()

    @classmethod
    def build(cls) -> None:
        pass

    @classmethod
    def run_tool(cls, *command: str, **env: str) -> None:
        done = subprocess.run(
            command, cwd=cls.folder, env={**os.environ, **env}, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    @classmethod
    def start(cls, command: list[str], **others: Any) -> subprocess.Popen[bytes]:
        """A process that reaches the database through the proxy."""
        env = {**os.environ, "PGHOST": cls.proxy.host, "PGPORT": str(cls.proxy.port), "PGSSLMODE": "disable"}
        env |= others.pop("env", {})
        log = cls.enterClassContext(open(f"{cls.folder}/log", "wb"))
        return subprocess.Popen(command, cwd=cls.folder, env=env, stderr=log, **others)


class Server(Example):
    """One that is an HTTP server."""

    limiter: str
    port: int
    process: subprocess.Popen[bytes]
    # header fields of all answers, and of those that are denied
    all_fields: dict[str, str] = {"RateLimit": r'"{limiter}";r=\d+(;t=\d+)?', "RateLimit-Policy": r'"{limiter}";q=100;w=10'}
    denied_fields: dict[str, str] = {}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.port = free_port()
        cls.process = cls.start(cls.command(), stdout=subprocess.DEVNULL, env={"PORT": str(cls.port), **cls.env()})
        cls.addClassCleanup(cls.end)
        until(cls.answers, f"{cls.name} answers", 60)

    @classmethod
    def end(cls) -> None:
        cls.process.terminate()
        try:
            cls.process.wait(10)
        except subprocess.TimeoutExpired:
            cls.process.kill()
            cls.process.wait()

    @classmethod
    def command(cls) -> list[str]:
        raise NotImplementedError

    @classmethod
    def env(cls) -> dict[str, str]:
        return {}

    @classmethod
    def answers(cls) -> bool:
        if cls.process.poll() is not None:
            raise AssertionError(f"{cls.name} has ended\n{Path(cls.folder, 'log').read_text()}")
        try:
            return cls.get() is not None
        except OSError:
            return False

    @classmethod
    def get(cls) -> Answer:
        conn = http.client.HTTPConnection("127.0.0.1", cls.port, timeout=30)
        try:
            conn.request("GET", "/")
            return Answer(conn.getresponse())
        finally:
            conn.close()

    def get_many(self, n: int) -> list[Answer]:
        """Answers to n requests, with a full bucket, all of which the database has decided.

        On a slow machine, it may not do so in time.
        """
        for _ in range(10):
            until(self.is_limited, "the database decides")
            passed = self.passed()
            with ThreadPoolExecutor(10) as executor:
                answers = list(executor.map(lambda i: self.get(), range(n)))
            if self.passed() == passed:
                return answers
        raise AssertionError("the database is too slow to decide")

    def passed(self) -> int:
        """How often requests have passed because the database did not decide."""
        return Path(self.folder, "log").read_text().count("pass without a limit")

    def setUp(self) -> None:
        self.proxy.start()

    def is_limited(self) -> bool:
        """Does the database decide? Then the bucket is full afterwards."""
        sql("SELECT rl_reset_all(%s)", self.limiter)
        self.get()
        decided = bool(sql("SELECT count(*) FROM rate_limit_status WHERE limiter = %s", self.limiter)[0])
        sql("SELECT rl_reset_all(%s)", self.limiter)
        return decided

    def most(self, seconds: float) -> float:
        """So many requests may pass in so many seconds, at most."""
        return CAPACITY + REFILL * seconds

    def exhaust(self) -> Answer:
        denied = [answer for answer in self.get_many(2 * CAPACITY) if answer.status == 429]
        self.assertNotEqual(denied, [])
        return denied[-1]

    def test_never_more_than_the_rule_says(self) -> None:
        began = time.monotonic()
        answers = self.get_many(300)
        # more than they have taken
        seconds = time.monotonic() - began
        allowed = [answer for answer in answers if answer.status == 200]
        denied = [answer for answer in answers if answer.status == 429]

        self.assertEqual(len(allowed) + len(denied), 300, {answer.status for answer in answers})
        self.assertGreaterEqual(len(allowed), CAPACITY)
        self.assertLessEqual(len(allowed), self.most(seconds))
        self.assertEqual({answer.body for answer in allowed}, {"hello\n"})
        self.assertEqual({answer.body for answer in denied}, {"Too many requests\n"})
        for answer in answers:
            fields = {**self.all_fields, **(self.denied_fields if answer.status == 429 else {})}
            for field, pattern in fields.items():
                self.assertRegex(answer.headers.get(field, ""), f"^{pattern.format(limiter=self.limiter)}$", field)
        for answer in denied:
            self.assertRegex(answer.headers.get("Retry-After", ""), r"^[1-9]\d*$")
        self.assertEqual([answer.headers["Retry-After"] for answer in allowed if answer.headers["Retry-After"]], [])

    @full_only
    def test_who_waits_as_long_as_it_is_told_is_allowed(self) -> None:
        denied = self.exhaust()
        wait = int(denied.headers["Retry-After"])
        self.assertLessEqual(wait, 10)
        time.sleep(wait)
        self.assertEqual(self.get().status, 200)

    def check_passes(self) -> None:
        """Requests pass, and soon."""
        began = time.monotonic()
        self.assertEqual([self.get().status for _ in range(3)], [200, 200, 200])
        self.assertLess(time.monotonic() - began, 3 * PATIENCE)

    @full_only
    def test_requests_pass_while_the_database_is_away_and_are_limited_again_after(self) -> None:
        self.exhaust()
        self.proxy.stop()
        self.check_passes()
        self.proxy.start()
        self.exhaust()
        self.proxy.hang()
        self.check_passes()
        self.proxy.start()
        self.exhaust()


@needs("javac", *JARS)
class Java(Server):
    name = limiter = "java"

    @classmethod
    def build(cls) -> None:
        cls.run_tool("javac", "-Xlint:all,-serial", "-Werror", "-cp", ":".join(JARS), "Server.java", "RateLimitFilter.java")

    @classmethod
    def command(cls) -> list[str]:
        return ["java", "-cp", ":".join([".", *JARS]), "Server"]


@needs("go", "/usr/share/gocode/src/github.com/jackc/pgx/v4/pgxpool", always=False)
class Go(Server):
    name = limiter = "go"

    @classmethod
    def build(cls) -> None:
        env = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": f"{cls.folder}/cache", "GOFLAGS": "-p=2"}
        cls.run_tool("go", "vet", "limit.go", "main.go", **env)
        cls.run_tool("go", "build", "-o", "server", "limit.go", "main.go", **env)

    @classmethod
    def command(cls) -> list[str]:
        return ["./server"]


@needs("ruby", "puma", "/usr/share/rubygems-integration/all/specifications/rack-attack-*")
class Ruby(Server):
    name = "ruby"
    limiter = "rack-attack"
    all_fields = {}
    denied_fields = {"RateLimit": r'"ip";r=0;t=\d+', "RateLimit-Policy": '"ip";q=100;w=5'}

    @classmethod
    def command(cls) -> list[str]:
        return ["puma", "--bind", f"tcp://127.0.0.1:{cls.port}", "--threads", "10", "config.ru"]

    def most(self, seconds: float) -> float:
        """A window of 5 seconds may end meanwhile."""
        return CAPACITY * (2 + int(seconds / 5))

    def exhaust(self) -> Answer:
        until(lambda: time.time() % 5 < 3, "a window has time left", 20)
        return super().exhaust()

    def test_exactly_the_limit_within_a_window(self) -> None:
        for _ in range(20):
            window = time.time() // 5
            answers = self.get_many(200)
            if time.time() // 5 == window:
                self.assertEqual(sum(answer.status == 200 for answer in answers), CAPACITY)
                return
        self.fail("200 requests take 5 seconds")

    def test_bans_and_counts_of_the_store(self) -> None:
        # on a slow machine, the database may not answer within the half second that the example gives it
        store = Path(self.folder, "rack_attack_postgresql_store.rb")
        patient = Path(self.folder, "patient.rb")
        patient.write_text(store.read_text().replace("TIMEOUT = 0.5 ", f"TIMEOUT = {AMPLE} "))
        self.run_tool("ruby", str(Path(__file__).parent / "rack_attack.rb"), str(patient))


@needs("php", "/usr/share/php/Symfony/Component/RateLimiter/autoload.php", "/usr/lib/php/*/pgsql.so")
class Php(Server):
    name = limiter = "php"
    all_fields = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": r"\d+"}

    @classmethod
    def build(cls) -> None:
        # Debian's package in place of what Composer would install
        Path(cls.folder, "vendor").mkdir()
        Path(cls.folder, "vendor/autoload.php").write_text(
            "<?php require_once '/usr/share/php/Symfony/Component/RateLimiter/autoload.php';\n"
        )

    @classmethod
    def command(cls) -> list[str]:
        return ["php", "-S", f"127.0.0.1:{cls.port}", "index.php"]

    @classmethod
    def env(cls) -> dict[str, str]:
        return {"PHP_CLI_SERVER_WORKERS": "10"}

    @classmethod
    def end(cls) -> None:
        # its workers do not end with it
        os.killpg(cls.process.pid, 15)
        cls.process.wait()

    @classmethod
    def start(cls, command: list[str], **others: Any) -> subprocess.Popen[bytes]:
        return super().start(command, start_new_session=True, **others)

    def test_the_contract_of_limiters(self) -> None:
        # on a slow machine, the database may not decide within the half second that the example gives it
        database = Path(self.folder, "Database.php")
        database.write_text(database.read_text().replace("TIMEOUT = 0.5;", f"TIMEOUT = {AMPLE};"))
        self.run_tool("php", "-d", "zend.assertions=1", str(Path(__file__).parent / "limiter.php"), self.folder)


class AnswersHeld(Proxy):
    """While "answers" is not set, the server gets what is sent, and its answers are kept back."""

    def __init__(self, tcp: bool) -> None:
        self.answers = threading.Event()
        self.answers.set()
        super().__init__(tcp)

    def copy(self, one: socket.socket, other: socket.socket) -> None:
        if one.family != socket.AF_UNIX:
            super().copy(one, other)
            return
        # what the server says is read all the same, so that it goes on
        held = b""
        with contextlib.suppress(OSError, ValueError):
            while True:
                if select.select([one], [], [], 0.01)[0]:
                    data = one.recv(65536)
                    if not data:
                        break
                    held += data
                if self.answers.is_set():
                    other.sendall(held)
                    held = b""
        for end in (one, other):
            self.cut(end)


@needs("cc", "pg_config", "/usr/include/postgresql/libpq-fe.h")
class C(Example):
    name = "c"

    @classmethod
    def build(cls) -> None:
        flags = ["-std=gnu99", "-O2", "-Wall", "-Wextra", "-Werror", "-I/usr/include/postgresql"]
        cls.run_tool("cc", *flags, "-o", "decide", "decide.c", "-lpq")
        # one that waits for as long as a slow machine takes
        path = Path(cls.folder, "decide.c")
        path.write_text(path.read_text().replace("#define TIMEOUT 500", f"#define TIMEOUT {AMPLE * 1000:.0f}"))
        cls.run_tool("cc", *flags, "-o", "patient", "decide.c", "-lpq")

    def ask(self, limiter: str, lines: list[str]) -> list[str]:
        process = self.decide(limiter, "./patient")
        out, _ = process.communicate("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"), 60)
        self.assertEqual(process.returncode, 0)
        return out.decode().splitlines()

    def decide(self, limiter: str, program: str = "./decide", **others: Any) -> subprocess.Popen[bytes]:
        self.proxy.start()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = self.start([program, "5", "0", limiter], **pipes, **others)
        self.addCleanup(process.__exit__, None, None, None)
        self.addCleanup(process.kill)
        return process

    def test_each_key_gets_what_its_bucket_has_and_answers_come_in_order(self) -> None:
        answers = self.ask(fresh("order"), [f"{i} key{i % 300}" for i in range(3000)])
        expected = [f"{i} {'OK' if i < 1500 else 'ERR'}" for i in range(3000)]
        self.assertEqual([pair for pair in zip(answers, expected) if pair[0] != pair[1]][:5], [])
        self.assertEqual(len(answers), 3000)

    def test_an_error_is_of_its_own_call(self) -> None:
        name = fresh("error")
        answers = self.ask(name, ["0 a", "1 " + "k" * 256, "2 a", "3", "4 \udcff", "5 a\"b'c", "6 a"])
        self.assertEqual(
            [answer.split()[:2] for answer in answers],
            [["0", "OK"], ["1", "BH"], ["2", "OK"], ["3", "BH"], ["4", "BH"], ["5", "OK"], ["6", "OK"]],
        )
        self.assertIn("must not be longer than 255 bytes", answers[1])
        self.assertEqual(sql("SELECT count(*) FROM rate_limit_status WHERE limiter = %s", name), (2,))

    def test_a_thousand_calls_are_sent_before_the_first_answer_comes(self) -> None:
        name = fresh("pipeline")
        with AnswersHeld(tcp=True) as proxy:
            process = self.decide(name, "./patient", env={"PGPORT": str(proxy.port)})
            assert process.stdin and process.stdout
            process.stdin.write(b"0 first\n")
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), b"0 OK\n")
            proxy.answers.clear()
            # at once, so that they are read at once
            os.write(process.stdin.fileno(), b"".join(b"%d key%d\n" % (i, i) for i in range(1000)))
            count = "SELECT count(*) FROM rate_limit_status WHERE limiter = %s"
            until(lambda: sql(count, name) == (1001,), "the server has decided all")
            proxy.answers.set()
            out, _ = process.communicate(timeout=60)
        self.assertEqual(out.decode().splitlines(), [f"{i} OK" for i in range(1000)])

    def test_calls_pass_while_the_database_is_away(self) -> None:
        process = self.decide(fresh("away"))
        assert process.stdin and process.stdout

        def ask(n: int, key: bytes = b"a") -> set[bytes]:
            assert process.stdin and process.stdout
            process.stdin.write(b"".join(b"%d %s\n" % (i, key) for i in range(n)))
            process.stdin.flush()
            return {process.stdout.readline().split()[1] for _ in range(n)}

        # on a slow machine, the database may not decide in time
        until(lambda: ask(10, fresh("key").encode()) == {b"OK", b"ERR"}, "five of ten calls pass")
        for cut in (self.proxy.stop, self.proxy.hang):
            until(lambda: ask(10) == {b"ERR"}, "the bucket is empty")
            cut()
            began = time.monotonic()
            self.assertEqual(ask(10), {b"OK"})
            self.assertLess(time.monotonic() - began, PATIENCE)
            self.proxy.start()
            until(lambda: ask(1) == {b"ERR"}, "the database decides again")
        process.communicate(timeout=60)


del Server, Example

if __name__ == "__main__":
    unittest.main()
