"""The picture of throughput.py: texts per second against requests in flight, and against the number of texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from clients import CLIENTS, OURS
from throughput_table import medians, well

if TYPE_CHECKING:
    from pathlib import Path

OUR_COLOURS = ("#0b5fa5", "#1f9e89", "#6a3d9a", "#d1495b")
RIVALS = {"baseten-performance-client": "#b35806"}
GREYS = ("#333333", "#777777")
IDEAL = "#a08000"
PANELS = (
    ("concurrency", "concurrency", "requests in flight", "200 texts for each request in flight"),
    ("texts", "texts", "texts in one call", "50 requests in flight"),
)
LINE = 0.043
"""The height of a name, as a part of the panel's."""


class Name(NamedTuple):
    """A name and the end of the line that it belongs to."""

    text: str
    end: tuple[float, float]
    colour: str
    weight: str


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG. Without both scenarios only one panel is drawn; without any, or without matplotlib, nothing."""
    rows = well(medians(result["runs"]))
    panels = [each for each in PANELS if any(row["scenario"] == each[0] for row in rows)]
    if not panels:
        return
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        print("no picture, because matplotlib is not installed")
        return
    plt.rcParams.update({"font.size": 9.5})
    figure, axes = plt.subplots(1, len(panels), figsize=(7.4 * len(panels), 5.4), squeeze=False)
    for axis, (scenario, key, label, fixed) in zip(axes[0], panels, strict=True):
        chosen = [row for row in rows if row["scenario"] == scenario]
        panel(axis, chosen, key)
        axis.set_xlabel(label)
        one = chosen[0]
        axis.set_title(f"Texts per second by {label}", loc="left", fontsize=11.5, fontweight="bold", pad=22)
        title = f"{one['batch']} texts a request, {one['latency'] * 1000:.0f} ms latency, {fixed}"
        axis.text(0, 1.025, title, transform=axis.transAxes, color="#555555")
    about = result["about"]
    caption = (
        f"{about['date']}, {about['machine']}, Python {about['python']}, commit {about['commit']}.\n"
        "Medians; a process for each run; 1024 dimensions as JSON numbers; local server without TLS; every vector "
        "checked. A line that ends early stands for a client that would take minutes."
    )
    figure.text(0.012, 0.012, caption, fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.06, 1, 1), w_pad=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def panel(axis: Any, rows: list[dict[str, Any]], key: str) -> None:
    """One line for each client, named at its end, and the ideal."""
    ours, others, names = iter(OUR_COLOURS * 2), iter(GREYS * 5), []
    for client in (each for each in CLIENTS.values() if any(row["client"] == each.name for row in rows)):
        mine = client.package == OURS
        colour = next(ours) if mine else RIVALS.get(client.package) or next(others)
        line = sorted((row[key], row["per_second"]) for row in rows if row["client"] == client.name)
        axis.plot(
            *zip(*line, strict=True),
            color=colour,
            linewidth=2.2 if mine else 1.2,
            linestyle="--" if client.returns != "list" else "-",
            marker="o",
            markersize=4.5 if mine else 3,
            zorder=3 if mine else 2,
        )
        text = client.name + (" (float32)" if mine and client.returns == "float32" else "")
        names.append(Name(text, line[-1], colour, "bold" if mine else "normal"))
    points = sorted({(row[key], row["texts"] / row["ideal_s"]) for row in rows if not CLIENTS[row["client"]].most})
    if points:
        axis.plot(*zip(*points, strict=True), color=IDEAL, linewidth=1.2, linestyle=":", zorder=1)
        names.append(Name("ideal: what the wire allows", points[-1], IDEAL, "normal"))
    scale(axis, sorted({row[key] for row in rows}), [row["per_second"] for row in rows] + [y for _, y in points])
    write(axis, names)


def scale(axis: Any, across: list[int], up: list[float]) -> None:
    """Logarithmic axes with a tick at every point that was measured."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set(xscale="log", yscale="log", xlim=(across[0] / 1.1, across[-1] * 1.1), ylim=(min(up) / 1.5, max(up) * 3))
    axis.set_xticks(across, [f"{at:,}" for at in across])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)


def write(axis: Any, names: list[Name]) -> None:
    """The names right of the panel, as near to the ends of their lines as they can without lying over each other."""
    low, high = map(math.log, axis.get_ylim())
    names = sorted(names, key=lambda name: name.end[1])
    wanted = [(math.log(name.end[1]) - low) / (high - low) for name in names]
    for name, height in zip(names, apart(wanted), strict=True):
        axis.annotate(
            name.text,
            xy=name.end,
            xytext=(1.06, height),
            textcoords="axes fraction",
            color=name.colour,
            fontweight=name.weight,
            fontsize=8.8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": name.colour,
                "linewidth": 0.6,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )


def apart(wanted: list[float]) -> list[float]:
    """Heights in order, at least a line apart; names that would overlap stand around their common middle."""
    groups: list[list[float]] = []
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and middle(groups[-1]) - middle(groups[-2]) < LINE * len(groups[-1] + groups[-2]) / 2:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [middle(group) + LINE * (at - (len(group) - 1) / 2) for group in groups for at in range(len(group))]


def middle(group: list[float]) -> float:
    return sum(group) / len(group)
