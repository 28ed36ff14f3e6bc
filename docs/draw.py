"""Draw the parts of the package and what they import: docs/pictures/parts.svg.

python docs/draw.py
"""

import ast
from pathlib import Path

HOME = Path(__file__).parent.parent
PACKAGE = HOME / "wsgi_defer"
WIDTH, HEIGHT, GAP, ROW, MARGIN = 104, 30, 16, 86, 20
STYLE = """
  rect { fill: #ddf4ff; stroke: #0969da } .public { fill: #dafbe1; stroke: #1a7f37 }
  text { fill: #24292f } path { fill: none; stroke: #8c959f; stroke-opacity: .55 }
  @media (prefers-color-scheme: dark) {
    rect { fill: #0c2d6b; stroke: #388bfd } .public { fill: #033a16; stroke: #2ea043 }
    text { fill: #e6edf3 }
  }
"""


def part_of(path):
    """The folder or module of the top level that a file is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """The parts of the package that a file imports, in its functions, too."""
    parents = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parents[: len(parents) - node.level + 1])
            names = [alias.name for alias in node.names]
            where = base + (node.module.split(".") if node.module else names)
            yield where[0]


def parts():
    """Each part with those that it imports. The shop window imports all, and is left
    out, and so is what has no part in a request."""
    found = {}
    for path in sorted(PACKAGE.glob("**/*.py")):
        found.setdefault(part_of(path), set()).update(imports_of(path))
    del found["__init__"], found["process"]
    return {name: (seen & set(found)) - {name} for name, seen in found.items()}


def floors(imports):
    """The parts in rows: each above all that it imports."""
    height = {}

    def find(name):
        if name not in height:
            height[name] = 1 + max(map(find, imports[name]), default=-1)
        return height[name]

    rows = [[] for _ in range(1 + max(map(find, imports)))]
    for name in sorted(imports):
        rows[height[name]].append(name)
    return rows[::-1]


def without_what_others_imply(imports):
    """Only the lines that are needed to see what is below what."""

    def below(name):
        return imports[name].union(*map(below, imports[name]))

    return {
        name: seen - set().union(*map(below, seen)) for name, seen in imports.items()
    }


def draw(imports):
    rows = floors(imports)
    imports = without_what_others_imply(imports)
    wide = max(map(len, rows)) * (WIDTH + GAP) + 2 * MARGIN
    at = {}
    for number, row in enumerate(rows):
        left = (wide - len(row) * (WIDTH + GAP) + GAP) / 2
        for place, name in enumerate(row):
            at[name] = left + place * (WIDTH + GAP), MARGIN + number * ROW
    lines, boxes = [], []
    for name, (x, y) in at.items():
        for other in sorted(imports[name]):
            to, down = at[other][0] + WIDTH / 2, at[other][1]
            start = x + WIDTH / 2
            lines.append(f'<path d="M{start:g} {y + HEIGHT} C{start:g} {y + ROW:g} '
                         f'{to:g} {down - ROW / 2:g} {to:g} {down}"/>')  # fmt: skip
        kind = "" if name.startswith("_") else ' class="public"'
        boxes.append(f'<rect{kind} x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}" '
                     f'rx="5"/><text x="{x + WIDTH / 2:g}" y="{y + 20}">{name}</text>'
                     )  # fmt: skip
    tall = (len(rows) - 1) * ROW + HEIGHT + 2 * MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" '
        f'width="{wide}" height="{tall}" role="img" font-size="12" '
        'font-family="system-ui, sans-serif" text-anchor="middle" '
        'aria-label="The parts of the package; each imports only those below it">',
        f"<style>{STYLE}</style>",
        *lines, *boxes, "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    (HOME / "docs" / "pictures" / "parts.svg").write_text(draw(parts()))
