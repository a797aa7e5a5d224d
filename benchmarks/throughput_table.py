"""The results of throughput.py as Markdown: medians, ratios to the ideal and to baseten, the server's share."""

from __future__ import annotations

from statistics import median
from typing import Any

from clients import CLIENTS, OURS, QUERY

RIVAL = {"list": "baseten, list", "float32": "baseten, numpy"}
NUMBERS = ("wall_s", "cpu_s", "peak_mib", "in_flight", "server_cpu_s", "requests")


def medians(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each case, of the rounds in which it went well; where none did, the error stays."""
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for found in runs:
        cases.setdefault(tuple(found[key] for key in ("scenario", "client", "texts", "concurrency")), []).append(found)
    rows = []
    for rounds in cases.values():
        good = [found for found in rounds if "error" not in found]
        row = {**(good or rounds)[0], "rounds": len(good), "disturbed": sum(found["disturbed"] for found in good)}
        if good:
            row.update({key: median(found[key] for found in good) for key in NUMBERS})
            row["per_second"] = row["texts"] / row["wall_s"]
        rows.append(row)
    return rows


def markdown(result: dict[str, Any], titles: dict[str, str]) -> str:
    """All tables."""
    about, rows = result["about"], medians(result["runs"])
    head = (
        f"{about['machine']}, Python {about['python']}, commit {about['commit']}. Made by "
        "`python benchmarks/throughput.py`, which says how. Compare within one table only."
    )
    parts = [f"# Throughput, {about['date']}", head]
    for name, title in titles.items():
        if chosen := [row for row in rows if row["scenario"] == name]:
            shown = {"query": queries, "texts": by_texts, "concurrency": by_concurrency}.get(name, bulk)(chosen)
            parts.append(f"## {title}\n\n{shown}\n\n{bottleneck(chosen)}")
    releases = sorted({f"{CLIENTS[row['client']].package} {row['version']}" for row in rows if row.get("version")})
    if releases:
        parts.append(f"Releases: {', '.join(releases)}.")
    return "\n\n".join(parts) + "\n"


def bulk(rows: list[dict[str, Any]]) -> str:
    """A table for each number of requests in flight."""
    parts = []
    for concurrency in dict.fromkeys(row["concurrency"] for row in rows):
        chosen = [row for row in rows if row["concurrency"] == concurrency]
        head = [
            "client",
            "texts",
            "wall s",
            "x ideal",
            "x baseten",
            "texts/s",
            "CPU ms/request",
            "peak MiB",
            "server CPU",
        ]
        body = [
            [
                called(row),
                f"{row['texts']:,}",
                f"{row['wall_s']:.2f}",
                f"{row['wall_s'] / row['ideal_s']:.2f}" if row["ideal_s"] else "",
                beside_baseten(row, chosen),
                f"{row['per_second']:,.0f}",
                f"{row['cpu_s'] / row['requests'] * 1000:.2f}",
                f"{row['peak_mib']:.0f}",
                f"{row['server_cpu_s'] / row['wall_s']:.0%}",
            ]
            for row in sorted(well(chosen), key=lambda row: -row["per_second"])
        ]
        one = chosen[0]
        parts.append(
            f"{one['batch']} texts of {one['length']} characters a request, {one['dimensions']} dimensions, at most "
            f"{concurrency} requests in flight, {one['latency'] * 1000:.0f} ms.\n\n{table(head, body)}{failed(chosen)}"
        )
    return "\n\n".join(parts)


def queries(rows: list[dict[str, Any]]) -> str:
    """CPU and wall time of one call."""
    body = [
        [called(row), f"{row['cpu_s'] / row['texts'] * 1000:.2f}", f"{row['wall_s'] / row['texts'] * 1000:.2f}"]
        for row in sorted(well(rows), key=lambda row: row["cpu_s"])
    ]
    return table(["client", "CPU ms/call", "wall ms/call"], body) + failed(rows)


def by_texts(rows: list[dict[str, Any]]) -> str:
    """Microseconds for a text, which must not grow with their number."""
    return "Microseconds for a text, by the number of texts.\n\n" + across(
        rows, "texts", lambda row: f"{row['wall_s'] / row['texts'] * 1e6:.0f}"
    )


def by_concurrency(rows: list[dict[str, Any]]) -> str:
    """Texts per second."""
    return "Texts per second, by the requests in flight.\n\n" + across(
        rows, "concurrency", lambda row: f"{row['per_second']:,.0f}"
    )


def across(rows: list[dict[str, Any]], key: str, cell: Any) -> str:
    points = sorted({row[key] for row in rows})
    body = []
    for client in dict.fromkeys(row["client"] for row in rows):
        line = {row[key]: row for row in well(rows) if row["client"] == client}
        if line:
            body.append([called(next(iter(line.values()))), *(cell(line[at]) if at in line else "" for at in points)])
    return table(["client", *(f"{at:,}" for at in points)], body) + failed(rows)


def bottleneck(rows: list[dict[str, Any]]) -> str:
    """The load of the server under the busiest client, and the load that it could take."""
    clients = [row for row in well(rows) if CLIENTS[row["client"]].returns != "bytes"]
    if not clients:
        return ""
    busiest = max(clients, key=lambda row: row["server_cpu_s"] / row["wall_s"])
    cost = median(row["server_cpu_s"] / row["requests"] for row in clients)
    raw = max((row["per_second"] for row in well(rows) if row not in clients), default=None)
    disturbed = sum(row["disturbed"] for row in well(rows))
    return (
        f"The server took {cost * 1e6:.0f} microseconds of CPU for a request and at most "
        f"{busiest['server_cpu_s'] / busiest['wall_s']:.0%} of a core under a client ({busiest['client']})."
        + (f" Raw sockets got up to {raw:,.0f} texts a second from it." if raw else "")
        + (f" Disturbed by others on the machine: {disturbed} measurements." if disturbed else "")
    )


def beside_baseten(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    rival = RIVAL.get(CLIENTS[row["client"]].returns)
    pace = next((other["per_second"] for other in well(rows) if other["client"] == rival), None)
    return f"{pace / row['per_second']:.2f}" if pace else ""


def well(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "error" not in row]


def failed(rows: list[dict[str, Any]]) -> str:
    lines = [f"{row['client']} failed: {row['error']}" for row in rows if "error" in row]
    return "".join(f"\n\n{line}" for line in dict.fromkeys(lines))


def called(row: dict[str, Any]) -> str:
    client = CLIENTS[row["client"]]
    name = client.name.removeprefix(QUERY) + (" (float32)" if client.returns == "float32" else "")
    return f"**{name}**" if client.package == OURS else name


def table(head: list[str], body: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *body))
