"""The table of faults: what was tried, what was answered as it should be, what was lost, how soon all was well."""

from dataclasses import dataclass, field

_COLUMNS = ("case", "tried", "survived", "lost", "recovery")


@dataclass
class Report:
    """Rows of the table."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def row(self, case: str, *, tried: int, survived: int, recovery_s: float | None = None, **figures: object) -> None:
        """Adds a case and asserts that nothing was lost.

        Args:
            case: what was done to the server.
            tried: requests it was done with.
            survived: those that ended as they should: an answer, or an error that says what happened.
            recovery_s: seconds from the fault until the server was ready again.
            figures: more, for the file and the last column.
        """
        row = {"case": case, "tried": tried, "survived": survived, "lost": tried - survived}
        self.rows.append(row | {"recovery_s": recovery_s, **figures})
        assert survived == tried, row

    def lines(self) -> list[str]:
        """The table as text."""
        cells = [_COLUMNS]
        notes = ["notes"]
        for row in self.rows:
            seconds = row["recovery_s"]
            cells.append((*(str(row[name]) for name in _COLUMNS[:4]), "-" if seconds is None else f"{seconds:.2f} s"))
            known = {*_COLUMNS, "recovery_s"}
            notes.append(", ".join(f"{key} {value}" for key, value in row.items() if key not in known))
        widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + f"  {note}"
            for line, note in zip(cells, notes, strict=True)
        ]
