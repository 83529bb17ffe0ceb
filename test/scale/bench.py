"""bench.py: what a proxy costs, on this machine, as test/scale/run bench prints it.

Nodes, proxy and callers share the processors.  So the figures say how much more work a call is
through a proxy, and not how many calls nodes on machines of their own would decide.  The time of
the processors that the servers have used says that: it does not depend on who shares them.

One server and the proxy take turns, and ratios and differences are those of turns beside each
other.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

from servers import NODES, WORK, Server, make_servers, servers

SECONDS = 4
ROUNDS = 5

KEYS = 100
CALLS = {
    "rl_consume": "\\set k random(1, 10000)\nSELECT rl_consume('user:' || :k, 1e6, 1e6);",
    f"rl_consume_each, {KEYS} keys":
        f"\\set k random(1, 10000)\nSELECT rl_consume_each(ARRAY(SELECT 'user:' || (:k + i) FROM generate_series(1, {KEYS}) i), 1e6, 1e6);",
}


def processor_seconds(server: Server) -> float:
    """What a server has used, with the sessions that have ended."""
    postmaster = server.pid()
    ticks = 0
    for pid in [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15] if pid == postmaster else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Turn:
    """One run of pgbench on a server."""

    def __init__(self, server: Server, call: str, clients: int) -> None:
        script = WORK / "bench.sql"
        script.write_text(CALLS[call])
        for old in WORK.glob("bench.log.*"):
            old.unlink()
        names = ["alone", "proxy", *NODES]
        before = {name: processor_seconds(servers[name]) for name in names}
        done = subprocess.run(
            ["pgbench", "-n", "-h", str(WORK), "-p", str(server.port), "-U", "postgres", "-M", "prepared", "-c", str(clients), "-j", "2",
             "-T", str(SECONDS), "-f", str(script), "-l", f"--log-prefix={WORK / 'bench.log'}", "postgres"],
            capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        took: list[int] = []
        for log in WORK.glob("bench.log.*"):
            took += [int(line.split()[2]) for line in log.read_text().splitlines()]
        took.sort()
        used = {name: processor_seconds(servers[name]) - before[name] for name in names}
        self.rate = next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))
        self.p50 = took[len(took) // 2] / 1000
        self.p99 = took[len(took) * 99 // 100] / 1000
        self.alone, self.proxy = (used[name] * 1e6 / len(took) for name in ("alone", "proxy"))
        self.nodes = sum(used[name] for name in NODES) * 1e6 / len(took)


def middle(values: list[float], form: str) -> str:
    """The median, with the least and the most."""
    return "{} [{} to {}]".format(*(format(value, form) for value in (statistics.median(values), min(values), max(values))))


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def compare(call: str, clients: int) -> None:
    """Print how one server and a proxy with three nodes do with a call."""
    direct: list[Turn] = []
    proxied: list[Turn] = []
    for _ in range(ROUNDS):
        direct.append(Turn(servers["alone"], call, clients))
        proxied.append(Turn(servers["proxy"], call, clients))
    decisions = KEYS if "each" in call else 1
    print(f"\n{call}; clients: {clients}")
    for title, values, form in [
            ("decisions a second, one server", [d.rate * decisions for d in direct], ".0f"),
            ("decisions a second, proxy and three nodes", [p.rate * decisions for p in proxied], ".0f"),
            ("ratio", [p.rate / d.rate for d, p in zip(direct, proxied)], ".3f"),
            ("p50 of a call, one server, ms", [d.p50 for d in direct], ".3f"),
            ("p50 that the proxy adds, ms", [p.p50 - d.p50 for d, p in zip(direct, proxied)], ".3f"),
            ("p99 of a call, one server, ms", [d.p99 for d in direct], ".3f"),
            ("p99 that the proxy adds, ms", [p.p99 - d.p99 for d, p in zip(direct, proxied)], ".3f"),
            ("processor of one server for a call, us", [d.alone for d in direct], ".1f"),
            ("processor of the proxy for a call, us", [p.proxy for p in proxied], ".1f"),
            ("processor of the nodes for a call, us", [p.nodes for p in proxied], ".1f")]:
        print(f"  {title:45}{middle(values, form)}", flush=True)


def main() -> None:
    make_servers()
    version = servers["proxy"].one("SHOW server_version")
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} processors for nodes, proxy and pgbench")
    print(f"Linux {platform.release()}, PostgreSQL {version}")
    print(f"medians of {ROUNDS} turns of {SECONDS} s each [least to most]")
    for call in CALLS:
        for clients in (1, 8):
            compare(call, clients)


if __name__ == "__main__":
    main()
