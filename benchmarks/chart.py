"""A chart of what each way of working later adds to a request, as two SVG files."""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, LINE, TOP = 720, 300, 70, 22, 56
# Background, text, faint text, bars of ours, bars of others.
COLOURS = {
    "light": ("#ffffff", "#1f2328", "#59636e", "#0969da", "#afb8c1"),
    "dark": ("#0d1117", "#e6edf3", "#9198a1", "#4493f8", "#4d5661"),
}
TITLE = "Microseconds of a worker's processor time that each adds to a request"


def draw(groups, folder):
    """Write ``cost-light.svg`` and ``cost-dark.svg``.

    ``groups`` has the rows of each title: what is done, the microseconds that it adds,
    and whether that is ours.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, colours in COLOURS.items():
        Path(folder, f"cost-{name}.svg").write_text(svg(groups, colours))


def svg(groups, colours):
    background, text, faint, ours, others = colours
    longest = max(added for rows in groups.values() for _, added, _ in rows)
    scale = (WIDTH - LEFT - RIGHT) / max(longest, 1)
    parts, y = [], TOP
    for title, rows in groups.items():
        parts.append(label(16, y + 4, title, faint, weight=600))
        y += LINE
        for row, added, is_ours in rows:
            width = max(added * scale, 1)
            colour = ours if is_ours else others
            parts += [
                label(LEFT - 10, y + 4, row, text, anchor="end"),
                f'<rect x="{LEFT}" y="{y - 7}" width="{width:.1f}" height="14" '
                f'rx="2" fill="{colour}"/>',
                label(LEFT + width + 6, y + 4, f"{added:.0f}", text),
            ]
            y += LINE
        y += 8
    said = "; ".join(
        f"{title}: " + ", ".join(f"{row} {added:.0f}" for row, added, _ in rows)
        for title, rows in groups.items()
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" role="img" aria-labelledby="title told" '
            'font-family="system-ui, sans-serif" font-size="13">',
            f'<title id="title">{TITLE}</title>',
            f'<desc id="told">{escape(said)}</desc>',
            f'<rect width="{WIDTH}" height="{y}" fill="{background}"/>',
            label(16, 26, TITLE, text, weight=600),
            *parts,
            "</svg>\n",
        ]
    )


def label(x, y, words, colour, *, anchor="start", weight=400):
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
