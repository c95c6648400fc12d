"""A sweep as a figure shows it: one swept key is the colour of lines, the others the panels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from horizons.report.figures.frame import Lines, swept_lines
from horizons.report.labels import group_points, label_points, legend_of, swept_keys

MOST_COLORS, MOST_PANELS = 8, 6  # beyond these a figure is a heat map


class Factors(NamedTuple):
    """How the points of a sweep are drawn; a point, a colour and a panel go by the number of their first run."""

    labels: dict[str, str]  # of each point, in order
    color_of: dict[str, str]  # of each point
    panel_of: dict[str, str]  # of each point
    lines: Lines  # by colour
    panels: dict[str, str]  # what each panel is called

    @property
    def fits(self) -> bool:
        """Whether lines and panels can be told apart."""
        return len(self.lines.colors) <= MOST_COLORS and len(self.panels) <= MOST_PANELS

    @property
    def crossed(self) -> bool:
        """Whether there are several colours and several panels."""
        return len(self.lines.colors) > 1 and len(self.panels) > 1


def factors_of(points: Mapping[str, Mapping[str, Any]], color: str | None = None, panels: str | None = None) -> Factors:
    """The factors of a sweep, whose values each run has by its number; in the style that is set.

    The swept key `color` is the colour, and all others are panels; without one the first, or where only `panels` is
    given, all but that.
    """
    firsts = {point: points[point] for point in group_points(points).values()}
    keys = swept_keys(firsts)
    colored = [color] if color else [key for key in keys if key != panels] if panels else keys[:1]
    parts = [
        {
            point: {key: value for key, value in values.items() if (key in colored) == wanted}
            for point, values in firsts.items()
        }
        for wanted in (True, False)
    ]
    color_of, panel_of = map(group_points, parts)
    title, names = legend_of(parts[0])
    labels = label_points(parts[1])
    return Factors(
        {point: label_points(firsts)[point] for point in firsts},
        color_of,
        panel_of,
        swept_lines({point: names[point] for point in dict.fromkeys(color_of.values())}, title),
        {point: labels[point] for point in dict.fromkeys(panel_of.values())},
    )
