"""Plot of ratios as SVG, without a library, and with readable diffs."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

__all__ = ["plot"]

SVG = "http://www.w3.org/2000/svg"
FONT = 'font-family="sans-serif" font-size="12"'
LEFT, WIDTH, ROW, TOP = 250, 400, 22, 44
GREY, OURS, THEIRS = "#808080", "#2a7f62", "#7a8fb0"


def plot(title: str, ratios: Mapping[str, tuple[float, float, float]]) -> str:
    """Return bars from 0, a line at 1, and the interval of each bar."""
    most = max(high for _, _, high in ratios.values()) * 1.08
    height = TOP + ROW * len(ratios) + 12

    def x(ratio: float) -> float:
        return LEFT + WIDTH * ratio / most

    parts = [
        f'<svg xmlns="{SVG}" viewBox="0 0 {LEFT + WIDTH + 60} {height}" {FONT} role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="20" font-size="14" fill="{GREY}">{escape(title)}, bare grpcio channel = 1</text>',
    ]
    for n, (name, (ratio, low, high)) in enumerate(ratios.items()):
        y = TOP + ROW * n
        middle = y + ROW / 2 - 2
        colour = OURS if name.startswith("meshlib") else THEIRS
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end" fill="{GREY}">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{x(ratio) - LEFT:.1f}" height="{ROW - 5}" fill="{colour}"/>',
            f'<path d="M{x(low):.1f} {middle}H{x(high):.1f}" stroke="{GREY}" stroke-width="3"/>',
            f'<text x="{x(high) + 6:.1f}" y="{middle + 4}" fill="{GREY}">{ratio:.2f}</text>',
        ]
    parts.append(f'<path d="M{x(1):.1f} {TOP - 8}V{height - 8}" stroke="{GREY}" stroke-dasharray="3 3"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
