"""run.py [NAME...]: the tests in this folder, or those named.

A line for each test, "ok" or "not ok", then what failed, and last "N passed, M failed".
"""

from __future__ import annotations

import sys
import time
import unittest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Lines(unittest.TestResult):
    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.began = time.monotonic()
        self.before = len(self.failures) + len(self.errors)

    def stopTest(self, test: Any) -> None:
        failed = len(self.failures) + len(self.errors) > self.before
        seconds = time.monotonic() - self.began
        print(f"{'not ok' if failed else 'ok'} {test.id()} ({seconds:.1f} s)", flush=True)
        super().stopTest(test)


def main() -> int:
    sys.path.insert(0, str(HERE))
    loader = unittest.TestLoader()
    if sys.argv[1:]:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(HERE), pattern="test_*.py")
    result = Lines()
    suite.run(result)
    for test, why in result.failures + result.errors:
        print(f"\n{test.id() if hasattr(test, 'id') else test}\n{why}")
    failed = len(result.failures) + len(result.errors)
    passed = max(result.testsRun - failed, 0)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
