"""run.py [NAME...]: the tests of clients/python and of this folder, or those named.

A line for each test, "ok" or "not ok", then what failed, and last "N passed, M failed".
"""

from __future__ import annotations

import logging
import sys
import time
import unittest
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent.parent.parent / "clients/python/tests"


class Lines(unittest.TestResult):
    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.began = time.monotonic()
        self.before = len(self.failures) + len(self.errors)
        self.skip = ""

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self.skip = f" # SKIP {reason}"

    def stopTest(self, test: Any) -> None:
        failed = len(self.failures) + len(self.errors) > self.before
        seconds = time.monotonic() - self.began
        print(f"{'not ok' if failed else 'ok'} {test.id()} ({seconds:.1f} s){self.skip}", flush=True)
        super().stopTest(test)


def main() -> int:
    # what pools say of connections that the tests cut
    for name in ("psycopg.pool", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("error")
    warnings.filterwarnings("default", module="(?!ratelimit_postgresql|support|test_)")
    sys.path[:0] = [str(TESTS), str(HERE)]
    loader = unittest.TestLoader()
    suite = unittest.TestSuite()
    if sys.argv[1:]:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        for folder in (TESTS, HERE):
            suite.addTests(loader.discover(str(folder), top_level_dir=str(folder)))
    result = Lines()
    suite.run(result)
    for test, traceback in [*result.errors, *result.failures]:
        print(f"\n{test.id()}\n{traceback}")
    # a test with several subtests that fail is one
    failed = len({str(test).split(" [")[0].split(" (<subtest>")[0] for test, _ in [*result.errors, *result.failures]})
    print(f"{result.testsRun - len(result.skipped) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
