#!/usr/bin/env python3
"""Draws docs/architecture.svg from the includes of src/: floors, rooms, arrows."""

import os
import sys

sys.dont_write_bytecode = True
import floors  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = os.path.join(TOP, "docs", "architecture.svg")

WIDTH = 980
LEFT = 16
ARROWS = 170  # the width that arrows have at the right
LETTER = 6.6  # the width of one, about
ROW = 24


def rooms_of(src, name):
    found = {floors.room_of(path) for path in floors.sources(src)}
    return sorted(room for room in found if floors.folder(room) == name)


def box(x, y, width, height, css):
    return f'<rect class="{css}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4"/>'


def text(x, y, css, words):
    return f'<text class="{css}" x="{x:.0f}" y="{y:.0f}">{words}</text>'


def draw_folder(src, name, x, y, width):
    """A folder with its rooms; its height and what to draw."""
    out = [text(x + 10, y + 18, "name", name), text(x + 10, y + 34, "about", floors.ABOUT[name])]
    at, line = x + 10, y + 44
    for room in rooms_of(src, name):
        label = os.path.basename(room)
        wide = len(label) * LETTER + 14
        if at + wide > x + width - 10:
            at, line = x + 10, line + ROW
        out += [box(at, line, wide, ROW - 5, "room"), text(at + 7, line + 13, "label", label)]
        at += wide + 6
    height = line + ROW + 4 - y
    return height, [box(x, y, width, height, "floor")] + out


def draw(src):
    """The picture, as text."""
    out = []
    middle = {}
    y = 12
    for folders in reversed(floors.FLOORS):
        x, tallest = LEFT, 0
        width = (WIDTH - ARROWS - LEFT - 8 * (len(folders) - 1)) / len(folders)
        if len(folders) > 1:
            widths = [width * 1.4, width * 0.6]
        else:
            widths = [width]
        for name, wide in zip(folders, widths):
            height, drawn = draw_folder(src, name, x, y, wide)
            out += drawn
            tallest = max(tallest, height)
            x += wide + 8
        for name in folders:
            middle[name] = y + tallest / 2
        y += tallest + 12

    counts = {}
    for room, others in floors.include_edges(src).items():
        for other in others:
            pair = (floors.height(room), floors.height(other))
            if pair[0] > pair[1]:
                counts[pair] = counts.get(pair, 0) + 1
    edge = WIDTH - ARROWS + 2
    for (high, low), n in sorted(counts.items()):
        top = middle[floors.FLOORS[high][0]] + 4 * (low - 3)
        bottom = middle[floors.FLOORS[low][0]] - 4 * (3 - high)
        bend = edge + 26 * (high - low)
        out.append(
            f'<path class="arrow" d="M{edge} {top:.0f} C{bend} {top:.0f} {bend} {bottom:.0f}'
            f' {edge + 6} {bottom:.0f}" stroke-width="{min(0.6 + n / 12, 5):.1f}">'
            f"<title>{n} includes</title></path>"
        )
    style = (
        "text{font-family:sans-serif;fill:#222}.name{font-size:14px;font-weight:bold}"
        ".about{font-size:11px;fill:#555}.label{font-size:11px;font-family:monospace}"
        ".floor{fill:#f4f6f8;stroke:#b8c2cc}.room{fill:#fff;stroke:#8aa}"
        ".arrow{fill:none;stroke:#47a;opacity:.55;marker-end:url(#head)}"
    )
    head = (
        '<marker id="head" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7"'
        ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L6 3L0 6z" fill="#47a"/></marker>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}">',
            "<!-- drawn by test/layers/picture.py -->",
            f"<style>{style}</style><defs>{head}</defs>",
            f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>',
            *out,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    with open(FILE, "w", encoding="utf-8") as file:
        file.write(draw(os.path.join(TOP, "src")))
