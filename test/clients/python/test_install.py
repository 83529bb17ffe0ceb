"""What docs/clients.md shows: the package is installed from its folder, and the lines of the page limit an endpoint.

And its types are those of what it does.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support import free_port, has, needs, sql, until

TOP = Path(__file__).resolve().parent.parent.parent.parent
PACKAGE = TOP / "clients/python"
PAGE = (TOP / "docs/clients.md").read_text()
PYTHON = PAGE[PAGE.index("\n## Python\n") :]


class Installed(unittest.TestCase):
    folder: str

    @classmethod
    def setUpClass(cls) -> None:
        """The folder of an application that has installed the package."""
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        if has("pip"):
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--root-user-action=ignore"]
            subprocess.run([*command, "--target", cls.folder, str(PACKAGE)], check=True)
        else:
            code = "import wheel_of_folder as w; print(w.build_wheel('.'))"
            wheel = subprocess.run(
                [sys.executable, "-c", code],
                cwd=cls.folder,
                env={**os.environ, "PYTHONPATH": str(PACKAGE / "build_backend")},
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
            zipfile.ZipFile(Path(cls.folder) / wheel).extractall(cls.folder)

    def run_python(self, *args: str) -> str:
        env = {**os.environ, "PYTHONPATH": self.folder}
        return subprocess.run(
            [sys.executable, *args], cwd=self.folder, env=env, check=True, capture_output=True, text=True
        ).stdout

    def test_the_package_is_there_and_brings_no_other(self) -> None:
        packages = [path.parent.name for path in Path(self.folder).glob("*/__init__.py")]
        self.assertEqual(packages, ["ratelimit_postgresql"])
        own = {
            path.relative_to(PACKAGE).as_posix()
            for path in (PACKAGE / "ratelimit_postgresql").rglob("*")
            if path.suffix == ".py" or path.name == "py.typed"
        }
        there = {
            path.relative_to(self.folder).as_posix()
            for path in (Path(self.folder) / "ratelimit_postgresql").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        self.assertEqual(there, own)
        # no driver is needed to import it
        code = (
            "import sys; sys.modules.update(psycopg=None, psycopg_pool=None, asyncpg=None, limits=None, flask=None)\n"
        )
        code += "import ratelimit_postgresql, ratelimit_postgresql.wsgi, ratelimit_postgresql.asgi; print('ok')"
        self.assertEqual(self.run_python("-c", code), "ok\n")
        code = "from importlib.metadata import version; print(version('ratelimit-postgresql'))"
        self.assertRegex(self.run_python("-c", code), r"^\d+\.\d+\.\d+\n$")

    def test_the_source_archive_holds_what_builds_it(self) -> None:
        code = "import wheel_of_folder as w, tarfile; print('\\n'.join(tarfile.open(w.build_sdist('.')).getnames()))"
        with tempfile.TemporaryDirectory() as folder:
            names = subprocess.run(
                [sys.executable, "-c", code],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(PACKAGE / "build_backend")},
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
        files = {name.partition("/")[2] for name in names}
        self.assertLessEqual(
            {
                "pyproject.toml",
                "README.md",
                "PKG-INFO",
                "build_backend/wheel_of_folder.py",
                "ratelimit_postgresql/__init__.py",
            },
            files,
        )

    @needs("flask", "psycopg_pool")
    def test_the_lines_of_the_page_limit_an_endpoint(self) -> None:
        found = re.search(r"```python\n(.*?)```", PYTHON, re.DOTALL)
        assert found is not None
        lines = found[1]
        self.assertLessEqual(len([line for line in lines.split("\n") if line]), 10)
        (Path(self.folder) / "server.py").write_text(lines)
        port = free_port()

        def get(i: int = 0) -> Any:
            conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                conn.request("GET", "/")
                response = conn.getresponse()
                return response.status, response.headers, response.read()
            except ConnectionError:
                return None
            finally:
                conn.close()

        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "server", "run", "--port", str(port)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": self.folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(get, "the server answers")
            answers: list[Any] = []

            def decided() -> bool:
                # what the database has not decided within a second has no fields
                sql("SELECT rl_reset_all('web')")
                with ThreadPoolExecutor(20) as executor:
                    answers[:] = [answer for answer in executor.map(get, range(300)) if answer]
                return all("RateLimit" in headers for _, headers, _ in answers)

            until(decided, "the database decides")
        finally:
            process.terminate()
            process.wait()
        self.assertEqual(len(answers), 300)
        allowed = [headers for status, headers, body in answers if status == 200 and body == b"hello\n"]
        denied = [headers for status, headers, _ in answers if status == 429]
        self.assertEqual(len(allowed) + len(denied), 300)
        self.assertTrue(90 <= len(allowed) < 200, len(allowed))
        self.assertRegex(allowed[0]["RateLimit"], r'^"web";r=\d+;t=1$')
        self.assertEqual(denied[0]["RateLimit-Policy"], '"web";q=100;w=10')
        self.assertEqual(denied[0]["Retry-After"], "1")

    def test_what_the_page_names_is_there(self) -> None:
        import ratelimit_postgresql

        for name in (
            "RateLimiter",
            "AsyncRateLimiter",
            "LocalBucket",
            "Lease",
            "RateLimitUnavailableError",
            "per",
            "client_key",
            "rate_limit_fields",
        ):
            self.assertIn(name, PYTHON)
            self.assertIn(name, ratelimit_postgresql.__all__)

    @needs("mypy")
    def test_the_types(self) -> None:
        good = """
import psycopg_pool
from typing import Optional
from ratelimit_postgresql import AsyncRateLimiter, Lease, LocalBucket, RateLimiter, Result, per
from ratelimit_postgresql.wsgi import RateLimitMiddleware

limiter = RateLimiter(object(), capacity=1, refill=per(1, "hour"), away="local", lease=Lease(seconds=1))
RateLimiter(object(), policy="free", away=LocalBucket(1, 2))
allowed: bool = limiter.consume("a", 2)
wait: Optional[float] = limiter.throttle("a").retry_after

async def f(limiter: AsyncRateLimiter) -> Result:
    async with limiter:
        return await limiter.throttle("a", cost=3)
"""
        bad = [
            "limiter.consume(42)",
            'RateLimiter(object(), capacity="1")',
            'RateLimiter(object(), policy="a", away="open")',
            'limiter.throttle("a").retry_after + 1',
            "RateLimitMiddleware(1, limiter)",
        ]
        path = Path(self.folder) / "typed.py"
        path.write_text(good + "".join(f"{line}  # type: ignore\n" for line in bad))
        config = ["-m", "mypy", "--strict", "--cache-dir", f"{self.folder}/.mypy", "--ignore-missing-imports"]
        try:
            # an error that is not there is one
            self.run_python(*config, "typed.py")
            self.run_python(*config, str(PACKAGE / "ratelimit_postgresql"), str(PACKAGE / "build_backend"))
        except subprocess.CalledProcessError as error:
            self.fail(error.stdout)


if __name__ == "__main__":
    unittest.main()
