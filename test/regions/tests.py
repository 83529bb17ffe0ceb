"""
test/regions/tests.py [full]: what leases between servers promise.

Started by test/regions/run.  The last line is "N passed, M failed".
"""

import os
import sys
import time
import traceback

import tests_calls
import tests_exact
import tests_failures
import tests_untrusted
from page import page
from predicted import predicted
from relay import Relay
from servers import FULL, WORK, Server, consume
from two_regions import two_regions


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
        until = time.monotonic() + 60
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


def test_the_page(_):
    page()


def test_two_regions(_):
    return two_regions()


def test_the_simulation_predicts(_):
    predicted()


LONG = {
    tests_untrusted.test_databases_that_are_dropped,
    tests_failures.test_a_standby,
    tests_failures.test_a_standby_of_the_home,
    tests_calls.test_without_preloading,
    test_two_regions,
    test_the_simulation_predicts,
}


def all_tests():
    for module in (tests_exact, tests_failures, tests_calls, tests_untrusted, sys.modules[__name__]):
        for name, test in list(vars(module).items()):
            if name.startswith("test_"):
                yield name, test


def main():
    names = [name for name in sys.argv[1:] if name != "full"]
    regions = Regions()
    passed = failed = 0
    for name, test in all_tests():
        if names and name not in names:
            continue
        if test in LONG and not FULL and not names:
            continue
        began = time.monotonic()
        try:
            skipped = test(regions)
        except Exception as error:  # noqa: BLE001
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
