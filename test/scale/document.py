"""The examples of docs/scale-out.md.

The first line of a ```psql block says where it runs: "-- on the proxy" and the like.  The ```output
block after it is what psql answers.  Host names are replaced by those of the tests' servers.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/scale-out.md"


@dataclass
class Block:
    section: str
    where: str
    sql: str
    output: str | None = None


def blocks() -> list[Block]:
    found: list[Block] = []
    section = ""
    text = DOCUMENT.read_text()
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        title, kind, body = match.groups()
        if title:
            section = title
        elif kind == "psql":
            where, _, sql = body.partition("\n")
            if not where.startswith("-- on "):
                raise ValueError(f"a block that does not say where it runs: {body}")
            found.append(Block(section, where.removeprefix("-- on "), sql))
        elif kind == "output" and text[:match.start()].endswith("```\n") and found:
            found[-1].output = body
    return found


def settings(section: str) -> str:
    """The ```ini block of a section."""
    found = re.search(rf"^## {section}$.*?^```ini\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    if not found:
        raise ValueError(f"no settings in {section}")
    return found.group(1)


def run_block(block: Block, host: str, ports: dict[str, int], port: int, name: str) -> str:
    """What psql says to it on the server at this port, which is a node of this name."""
    sql = re.sub(r"host=([\w-]+?)(-standby)?\.internal", lambda m: f"host={host} port={ports[m.group(1)]}", block.sql)
    sql = sql.replace("policies_of_n1", f"policies_of_{name}")
    done = subprocess.run(["psql", "-X", "-q", "-h", host, "-p", str(port)], input="\\set SHOW_CONTEXT never\n" + sql, capture_output=True, text=True)
    return done.stdout + re.sub(r"^psql:<stdin>:\d+: ", "", done.stderr, flags=re.M)
