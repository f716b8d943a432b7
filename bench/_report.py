"""How every bench says what it found: one JSON object a line, and a table on a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any


class Report:
    """Collects measurements. ``peer`` is what was measured; ``ratio`` compares it with the bench's yardstick."""

    def __init__(self, bench: str) -> None:
        self._bench = bench
        self._rows: list[dict[str, Any]] = []

    def add(
        self,
        metric: str,
        value: float,
        unit: str,
        *,
        n: int,
        concurrency: int = 1,
        peer: str = "lading",
        ratio: float | None = None,
        **more: float,
    ) -> None:
        """One measurement; printed at once unless a table follows."""
        row = {
            "bench": self._bench,
            "metric": metric,
            "value": round(value, 4),
            "unit": unit,
            "n": n,
            "concurrency": concurrency,
            "peer": peer,
            "ratio": None if ratio is None else round(ratio, 3),
            **{key: round(extra, 3) for key, extra in more.items()},
        }
        self._rows.append(row)
        if not sys.stdout.isatty():
            print(json.dumps(row), flush=True)

    def missing(self, peer: str, why: str) -> None:
        """Say that ``peer`` was left out."""
        print(f"{self._bench}: {peer} left out: {why}", file=sys.stderr)

    def compare(self) -> None:
        """A table in Markdown on standard error: what was measured down, by whom across, ``ratio`` in brackets."""
        peers = list(dict.fromkeys(row["peer"] for row in self._rows))
        metrics = {row["metric"]: row["unit"] for row in self._rows}
        cells = {(row["metric"], row["peer"]): _cell(row) for row in self._rows}
        lines = [f"| {' | '.join(('', *peers))} |", f"| --- |{' ---: |' * len(peers)}"]
        for metric, unit in metrics.items():
            shown = (cells.get((metric, peer), "") for peer in peers)
            lines.append(f"| {metric}, {unit} | {' | '.join(shown)} |")
        print("\n".join(lines), file=sys.stderr)

    def finish(self) -> None:
        """Draw the table, if somebody looks."""
        if not sys.stdout.isatty():
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self._bench)
        columns = [key for key in max(self._rows, key=len, default={}) if key != "bench"]
        for column in columns:
            table.add_column(column, justify="left" if column in ("metric", "peer", "unit") else "right")
        for row in self._rows:
            table.add_row(*("" if row.get(key) is None else str(row[key]) for key in columns))
        Console().print(table)


def _cell(row: dict[str, Any]) -> str:
    value = f"{row['value']:.3g}" if row["value"] < 100 else f"{row['value']:,.0f}"
    return value if row["ratio"] is None else f"{value} ({row['ratio']:.2f})"
