"""How noisy the machine was while an experiment ran: graded, told, never a reason to drop a sample."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.measure import SHORTEST_S, Activity

NOISY_CORES = 0.05
BUSY_CORES = 0.30


@dataclass(frozen=True)
class Noise:
    """What the rest of the machine did while an experiment ran. Shares are of one core; None is unknown.

    `stolen`: cores' worth of CPU time that the hypervisor gave to others; `others`: cores' worth that other
    processes here used; `involuntary`: times per second that our processes were pushed off a core.
    """

    grade: str  # "quiet", "noisy", "busy" or "unknown"
    stolen: float | None = None
    others: float | None = None
    involuntary: float | None = None

    def warning(self) -> str | None:
        """One line for the record, or None on a quiet machine."""
        if self.grade in ("quiet", "unknown"):
            return None
        parts = []
        if self.stolen is not None and self.stolen >= NOISY_CORES:
            parts.append(f"the hypervisor took {self.stolen:.0%} of a core")
        if self.others is not None and self.others >= NOISY_CORES:
            parts.append(f"other programs used {self.others:.0%} of a core")
        return f"{self.grade} machine: {' and '.join(parts)}"


def grade_noise(before: Activity, after: Activity) -> Noise:
    """Compare two snapshots of `activity()`. Noise is graded, never a reason to drop a sample."""
    seconds = max((after.wall_ns - before.wall_ns) / 1e9, 1e-9)
    stolen = _rate(before.stolen_s, after.stolen_s, seconds)
    busy = _rate(before.busy_s, after.busy_s, seconds)
    own = _rate(before.own_cpu_s, after.own_cpu_s, seconds)
    others = None if busy is None or own is None else max(0.0, busy - own)
    involuntary = _rate(before.involuntary, after.involuntary, seconds)
    known = [value for value in (stolen, others) if value is not None]
    if not known or seconds < SHORTEST_S:
        return Noise("unknown", stolen, others, involuntary)
    worst = max(known)
    grade = "busy" if worst >= BUSY_CORES else "noisy" if worst >= NOISY_CORES else "quiet"
    return Noise(grade, stolen, others, involuntary)


def _rate(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else (after - before) / seconds
