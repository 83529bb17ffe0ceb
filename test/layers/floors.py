"""
The floors of src/ (docs/architecture.md), and who includes whom.

A room is a file without its ending: memory/place is memory/place.c and .h.
"""

import os
import re

# from the ground; those of one line know nothing of each other
FLOORS = [
    ["core"],
    ["memory"],
    ["table"],
    ["violations"],
    ["decide"],
    ["functions", "workers"],
    ["ratelimit"],
]

# what the families of SQL functions share; the families know nothing of each other
SHARED_BY_FAMILIES = {"functions/arguments", "functions/http_answer", "functions/result"}

ABOUT = {
    "core": "bucket arithmetic, names, settings, clock, parts, the file of saved state",
    "memory": "buckets in shared memory; which partitions have spilled; databases",
    "table": "buckets as rows; statements on our own tables",
    "violations": "counting, folding, flushing; episodes, flags, figures",
    "decide": "which store, in which order, and what an error means",
    "functions": "SQL functions, by family",
    "workers": "launcher, database workers, saver",
    "ratelimit": "loading: the list of parts, hooks",
}


def folder(room):
    return room.split("/")[0]


def height(room):
    for number, folders in enumerate(FLOORS):
        if folder(room) in folders:
            return number
    raise KeyError(f"{room} is on no floor")


def room_of(path):
    return os.path.splitext(path)[0]


def sources(src):
    """Paths of all files under src/, from there."""
    found = []
    for where, _, names in os.walk(src):
        found += [
            os.path.relpath(os.path.join(where, name), src)
            for name in names
            if name.endswith((".c", ".h"))
        ]
    return sorted(found)


def own_includes(src, path):
    """The files of src/ that one includes."""
    with open(os.path.join(src, path), encoding="utf-8") as file:
        names = re.findall(r'^#include "([^"]+)"', file.read(), re.MULTILINE)
    return [name for name in names if os.path.exists(os.path.join(src, name))]


def include_edges(src):
    """Which room includes which others."""
    edges = {}
    for path in sources(src):
        mine = edges.setdefault(room_of(path), set())
        mine |= {room_of(name) for name in own_includes(src, path)} - {room_of(path)}
    return edges


def problems(edges, what):
    """What is wrong with edges {room: rooms}; what: "includes" or "calls"."""
    found = []
    for room, others in sorted(edges.items()):
        for other in sorted(others):
            if height(other) > height(room):
                found.append(f"{room} {what} {other}, which is above it")
            elif height(other) == height(room) and folder(other) != folder(room):
                found.append(f"{room} {what} {other}, which is beside it")
            elif (
                folder(room) == folder(other) == "functions"
                and other not in SHARED_BY_FAMILIES
            ):
                found.append(f"{room} {what} {other}, which is another family")
    circle = find_circle(edges)
    if circle:
        found.append(f"a circle: {f' {what} '.join(circle)}")
    return found


def largest_circle(edges):
    """How many rooms all lead to each other, where these are most; 0: no room leads back."""

    def reached(room):
        found, left = set(), [room]
        while left:
            new = edges.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    reach = {room: reached(room) for room in edges}
    return max(
        sum(other in reach[room] and room in reach.get(other, ()) for other in edges)
        for room in edges
    )


def find_circle(edges):
    """Rooms that lead back to the first of them, or nothing."""
    done = set()

    def visit(room, way):
        if room in way:
            return way[way.index(room) :] + [room]
        if room in done:
            return None
        for other in sorted(edges.get(room, ())):
            circle = visit(other, way + [room])
            if circle:
                return circle
        done.add(room)
        return None

    for room in sorted(edges):
        circle = visit(room, [])
        if circle:
            return circle
    return None
