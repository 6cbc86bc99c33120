"""What is not worth running: a contender whose call would take too long, or more memory than there is.

Both are predicted from what the same contender took at a smaller size of the same entry, grown as the square of n: no
contender that visits every pair grows more slowly, so one that is refused is refused rightly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MEMORY_SHARE = 0.5  # of what the system can still give out: others run there too


def available_bytes() -> int | None:
    """What the system could still give out (Linux)."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@dataclass
class _Seen:
    n: int
    seconds: float
    peak_bytes: int | None = None


@dataclass
class History:
    """What contenders took so far: by entry, contender and number of threads, at the largest n they ran at."""

    call_s: float
    _seen: dict[tuple[str, str, int], _Seen] = field(default_factory=dict)

    def time(self, entry: str, contender: str, threads: int, n: int, seconds: float) -> None:
        """Take note of the time of a call."""
        seen = self._seen.get((entry, contender, threads))
        if seen is None or n > seen.n:
            self._seen[entry, contender, threads] = _Seen(n, seconds)
        elif n == seen.n:
            seen.seconds = max(seen.seconds, seconds)  # of its passes and dimensions, the slowest

    def memory(self, entry: str, contender: str, threads: int, n: int, peak_bytes: int | None) -> None:
        """Take note of the memory of a call that was timed."""
        seen = self._seen.get((entry, contender, threads))
        if seen is not None and n == seen.n:
            seen.peak_bytes = peak_bytes

    def refusal(self, entry: str, contender: str, threads: int, n: int) -> str | None:
        """Why a call is not worth making, or None if it is."""
        seen = self._seen.get((entry, contender, threads))
        if seen is None or n <= seen.n:
            return None
        growth = (n / seen.n) ** 2
        if growth * seen.seconds > self.call_s:
            return (
                f"not run: {seen.seconds:.2g} s at n={seen.n}, so about {growth * seen.seconds:.0f} s a call here; "
                f"the limit is {self.call_s:g} s"
            )
        available = available_bytes()
        if seen.peak_bytes is None or available is None or growth * seen.peak_bytes <= MEMORY_SHARE * available:
            return None
        return (
            f"not run: {seen.peak_bytes / 1e6:.0f} MB at n={seen.n}, so about {growth * seen.peak_bytes / 1e9:.1f} GB "
            f"here, more than half of the {available / 1e9:.1f} GB that are free"
        )
