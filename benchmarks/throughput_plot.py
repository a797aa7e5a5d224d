"""The picture of throughput.py: texts per second against requests in flight, and against the number of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from doors import DOORS, OURS
from throughput_table import medians, well

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = ("#0b5fa5", "#1f9e89", "#6a3d9a", "#d1495b")
GREYS = ("#333333", "#666666", "#888888", "#a0a0a0")
PANELS = (
    ("concurrency", "concurrency", "requests in flight", "10 texts a request, 50 ms, 200 texts for each in flight"),
    ("texts", "texts", "texts in the call", "10 texts a request, 50 ms, 50 in flight"),
)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG. Without both scenarios only one panel is drawn; without any, or without matplotlib, nothing."""
    rows = well(medians(result["runs"]))
    panels = [panel for panel in PANELS if any(row["scenario"] == panel[0] for row in rows)]
    if not panels:
        return
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        print("no picture, because matplotlib is not installed")
        return
    plt.rcParams.update({"font.size": 9.5, "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(1, len(panels), figsize=(7.6 * len(panels), 5.8), squeeze=False)
    for axis, (scenario, key, label, title) in zip(axes[0], panels, strict=True):
        panel(axis, [row for row in rows if row["scenario"] == scenario], key)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_title(f"Texts per second by {label}\n{title}", loc="left", fontsize=10.5)
    about = result["about"]
    figure.text(
        0.01,
        0.012,
        f"{about['date']}, {about['machine']}, Python {about['python']}, commit {about['commit']}. Medians; a process "
        "for each run; 1024 dimensions as JSON; local server without TLS; every vector checked.",
        fontsize=7.5,
        color="#555555",
    )
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def panel(axis: Any, rows: list[dict[str, Any]], key: str) -> None:
    """One line for each door, named at its end, and the ideal."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    labels = []
    styles = {True: iter(COLOURS), False: iter(GREYS * 3)}
    for door in dict.fromkeys(row["door"] for row in sorted(rows, key=lambda row: list(DOORS).index(row["door"]))):
        line = sorted((row[key], row["per_second"]) for row in rows if row["door"] == door)
        ours = DOORS[door].package == OURS
        colour = next(styles[ours])
        axis.plot(
            *zip(*line, strict=True),
            color=colour,
            linewidth=2.2 if ours else 1.2,
            linestyle="--" if DOORS[door].returns == "bytes" else "-",
            marker="o" if ours else ".",
            markersize=4.5,
            zorder=3 if ours else 2,
        )
        name = door + (", float32" if DOORS[door].returns == "float32" and ours else "")
        labels.append((line[-1], name, colour, "bold" if ours else "normal"))
    points = sorted({(row[key], row["texts"] / row["ideal_s"]) for row in rows if not DOORS[row["door"]].most})
    axis.plot(*zip(*points, strict=True), color="#c8a000", linewidth=1, linestyle=":", zorder=1)
    labels.append((points[-1], "ideal: the wire alone", "#a08000", "normal"))
    ticks = [at for at, _ in points]
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(ticks, [f"{at:,}" for at in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(axis.xaxis.get_major_locator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlim(ticks[0] * 0.9, ticks[-1] * 1.06)
    name_lines(axis, labels, ticks[-1])


def name_lines(axis: Any, labels: list[Any], right: float) -> None:
    """Names right of the panel, at their lines' heights but never over each other."""
    low, high = axis.get_ylim()
    step = (high / low) ** 0.042  # the height of a line of text
    at = 0.0
    for (x, y), name, colour, weight in sorted(labels, key=lambda label: label[0][1]):
        at = max(y, at * step)
        axis.annotate(
            name,
            xy=(x, y),
            xytext=(right * 1.16, at),
            color=colour,
            fontweight=weight,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkB": 2},
        )
