"""The table of targets, from what the sections measured. Pure; what was not measured says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Parts = Mapping[str, Mapping[str, Any]]
"""Values by the name of a section's part."""
Results = Mapping[str, Parts]
"""Parts by section."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Found:
    """A measured number, and what else has to be said with it; ``valid`` False where it may not count."""

    number: float
    text: str
    valid: bool = True


@dataclass(frozen=True)
class Target:
    """One line of the table."""

    work: str
    published: str
    gate: float | None
    goal: float
    unit: str
    at_least: bool
    measured: Callable[[Results], Found | None]

    def row(self, results: Results) -> dict[str, str]:
        """As in the table."""
        found, sign = self.measured(results), "≥" if self.at_least else "≤"
        return {
            "work": self.work,
            "published": self.published,
            "gate": "–" if self.gate is None else f"{sign} {self.gate:g} {self.unit}",
            "goal": f"{sign} {self.goal:g} {self.unit}",
            "measured": NOT_MEASURED if found is None else found.text,
            "met": self._met(found),
        }

    def _met(self, found: Found | None) -> str:
        if found is None:
            return NOT_MEASURED
        if found.valid and self._reaches(found, self.goal):
            return "goal"
        return "gate" if self.gate is not None and found.valid and self._reaches(found, self.gate) else "**no**"

    def _reaches(self, found: Found, limit: float) -> bool:
        return found.number >= limit if self.at_least else found.number <= limit


def rows(results: Results) -> list[dict[str, str]]:
    """The whole table."""
    return [target.row(results) for target in TARGETS]


def measured_parts(results: Results, section: str, start: str, value: str) -> dict[str, Mapping[str, Any]]:
    """Parts of a section whose name begins so and that have a number under ``value``."""
    parts = results.get(section, {})
    return {
        name: values
        for name, values in parts.items()
        if name.startswith(start) and isinstance(values.get(value), int | float)
    }


def fastest(section: str, start: str, value: str, unit: str, at_least: bool) -> Callable[[Results], Found | None]:
    """The best number among the ways of computing one thing, and which way it was."""

    def measured(results: Results) -> Found | None:
        parts = measured_parts(results, section, start, value)
        if not parts:
            return None
        best = (max if at_least else min)(parts, key=lambda name: float(parts[name][value]))
        number = float(parts[best][value])
        return Found(number, f"{number:.3g} {unit} ({best.removeprefix(start).strip(', ') or best})")

    return measured


def memory_of_fastest(section: str, start: str, value: str) -> Callable[[Results], Found | None]:
    """GB reserved by the fastest way."""

    def measured(results: Results) -> Found | None:
        parts = measured_parts(results, section, start, value)
        kept = {name: values for name, values in parts.items() if "reserved_gb" in values}
        if not kept:
            return None
        best = min(kept, key=lambda name: float(kept[name][value]))
        number = float(kept[best]["reserved_gb"])
        return Found(number, f"{number:.3g} GB ({best.removeprefix(start).strip(', ')})")

    return measured


def newton(start: str) -> Callable[[Results], Found | None]:
    """Scans/s of Gauss-Newton, which count only at the PSNR of the plain steps."""

    def measured(results: Results) -> Found | None:
        parts = measured_parts(results, "fit", start, "scans_per_s")
        if not parts:
            return None
        best = max(parts, key=lambda name: float(parts[name]["scans_per_s"]))
        number, gain = float(parts[best]["scans_per_s"]), parts[best].get("psnr_over_plain")
        valid = isinstance(gain, int | float) and gain >= 0
        compared = "its PSNR was not compared" if gain is None else f"{gain:+.2f} dB over plain steps"
        return Found(number, f"{number:.3g} scans/s ({best.removeprefix(start).strip(', ')}; {compared})", valid)

    return measured


def largest(results: Results) -> Found | None:
    """GB of the step at 224²; it has to have trained."""
    values = results.get("memory", {}).get(LARGEST)
    if values is not None and "failed" in values:
        return Found(float("inf"), f"does not train: {values['failed']}", valid=False)
    if values is None or "reserved_gb" not in values:
        return None
    number = float(values["reserved_gb"])
    text = f"{number:.3g} GB, {values['seconds']:.3g} s per step, {values['scans']} scans ({values['way']})"
    return Found(number, text, bool(values["finite"] and values["scans"] == values["scans_asked"]))


LARGEST = "the largest: one training step"
META, RANK, PLAIN, NEWTON = "24 scans, ", "3 scans, ", "plain steps, ", "Gauss-Newton, "
A100 = "A100, B = 12: 0.42 s, 11.4 GB"
FIT = "< 0.5 s a scan"
TARGETS = (
    *(
        Target(
            f"meta step, B = 24, G = 10, γ = 0.25, {how}", A100, 90, goal, "ms", False,
            fastest("meta", f"{META}{how},", "ms", "ms", False),
        )
        for how, goal in (("tf32x3", 45), ("tf32", 20))
    ),
    Target(
        "its memory, tf32x3", A100, None, 2, "GB", False, memory_of_fastest("meta", f"{META}tf32x3,", "ms")
    ),
    *(
        Target(
            f"the same for 24 scans dealt to 8 GPUs (3 scans a rank), {how}", "–", 30, 12, "ms", False,
            fastest("meta", f"{RANK}{how},", "ms", "ms", False),
        )
        for how in ("tf32x3", "tf32")
    ),
    *(
        Target(
            f"fit, 20 plain steps, full, {how}", FIT, 150, goal, "scans/s", True,
            fastest("fit", f"{PLAIN}{how},", "scans_per_s", "scans/s", True),
        )
        for how, goal in (("tf32x3", 300), ("tf32", 700))
    ),
    *(
        Target(
            f"fit, Gauss-Newton, 3 steps, at ≥ the PSNR of 20 plain steps, {how}", "–", 500, 1000, "scans/s", True,
            newton(f"{NEWTON}{how},"),
        )
        for how in ("tf32x3", "tf32")
    ),
    Target("γ = 1, 224², P = 16384, B = 24: trains", "does not fit an A100", None, 16, "GB", False, largest),
)  # fmt: skip
