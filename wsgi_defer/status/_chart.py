"""The last minute as a picture: a bar for each second, in inline SVG."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

from ._totals import Minute, bounded, shares
from ._words import percent

STEPS = 20  # of a bar in a small picture
UP = 0.95  # of a step: less than this part of one is not seen


def chart(minute: Minute, label: str = "", steps: int = STEPS) -> str:
    """SVG: the request's part at the bottom, what is after the response above it.

    It says the same in words, to screen readers. Attributes only, as the page's policy
    forbids styles. Equal neighbours are one bar: most of an idle minute is nothing.
    """
    request, after = [], []
    second = 0
    for pair, equal in groupby([_heights(each, steps) for each in minute]):
        width = len(list(equal))
        low, high = pair
        if low:
            request.append(_bar(second, width, steps, low))
        if high:
            after.append(_bar(second, width, steps - low, high))
        second += width
    return (
        f'<svg role="img" aria-label="{label}{in_words(minute)}" '
        f'viewBox="0 0 {len(minute)} {steps}" preserveAspectRatio="none">'
        f'<path class="request" d="{"".join(request)}"/>'
        f'<path class="after" d="{"".join(after)}"/></svg>'
    )


def coarse(minute: Minute) -> Minute:
    """A third of the bars, for small pictures: the means of three seconds."""
    return [
        ((a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3)
        for a, b, c in zip(minute[::3], minute[1::3], minute[2::3], strict=False)
    ]


def in_words(minute: Minute) -> str:
    """As ``12 % request, 30 % after response, 58 % idle``."""
    request, after = shares(minute)
    return (
        f"{percent(request)} request, {percent(after)} after response, "
        f"{percent(max(1 - request - after, 0))} idle"
    )


def _heights(pair: tuple[float, float], steps: int) -> tuple[int, int]:
    """Steps of both bars, rounded up, as what took little time is to be seen, too."""
    request, after = pair
    if not request and not after:
        return 0, 0
    if request + after > 1:  # with threads
        request, after = bounded(pair)
    low = int(request * steps + UP)
    high = int(after * steps + UP)
    return low, min(high, steps - low)


@lru_cache(4096)
def _bar(x: int, width: int, bottom: int, height: int) -> str:
    return f"M{x} {bottom}h{width}v-{height}h-{width}z"
