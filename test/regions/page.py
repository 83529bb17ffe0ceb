"""
docs/regions.md: its statements run as they stand, and answer what it shows.

A "psql" block begins with the servers that it runs on, and runs in a session of its own there.
An "answer" block after it has what psql prints.
"""

import os
import re
import subprocess

from servers import BIN, WORK, Server

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/regions.md")


def blocks():
    with open(PAGE) as page:
        found = re.findall(r"^```(psql|answer)\n(.*?)^```$", page.read(), re.M | re.S)
    for i, (kind, text) in enumerate(found):
        if kind == "psql":
            answer = found[i + 1][1] if i + 1 < len(found) and found[i + 1][0] == "answer" else None
            yield text, answer


def psql(server, statements):
    done = subprocess.run(
        [os.path.join(BIN, "psql"), "-X", "-q", "-h", WORK, "-p", str(server.port), "-U", "postgres",
         "-d", "postgres"],
        input=statements, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    return [line.rstrip() for line in done.stdout.strip().splitlines()]


def page():
    servers = {name: Server(name, ratelimit_region__lease_idle="1h") for name in ("frankfurt", "oregon")}
    n = 0
    for statements, answer in blocks():
        names = re.match(r"-- on (\w+)(?: and (\w+))?\n", statements)
        statements = statements.replace(
            "host 'frankfurt.example.com', dbname 'app'",
            f"host '{WORK}', port '{servers['frankfurt'].port}', dbname 'postgres'",
        )
        for name in filter(None, names.groups()):
            said = psql(servers[name], statements)
            shown = [line.rstrip() for line in (answer or "").strip().splitlines()]
            if said != shown and (answer or any("ERROR" in line for line in said)):
                raise AssertionError("\n".join([statements, *said, "-- but the page shows:", *shown]))
            n += 1
    for server in servers.values():
        server.stop()
        if server.crashed():
            raise AssertionError(server.crashed())
    if n < 8:
        raise AssertionError(f"the page has only {n} blocks")
