"""Figures of several rounds: the best and the median of them, their ratios, and whether these keep a goal."""

import statistics
from dataclasses import dataclass


@dataclass
class Goal:
    """`of` must keep `sign` `factor` times `base`; without a base the figure itself must keep it.

    With `over`, the row of that name is subtracted on both sides: what is compared is what the two add to it.
    """

    of: tuple  # label, figure
    sign: str
    factor: float
    base: tuple = None
    over: str = None

    def text(self):
        figure = f"{self.of[1]} over {self.over}" if self.over else self.of[1]
        if not self.base:
            against = ""
        elif self.base[0] == self.of[0]:
            against = f" x {self.base[1]}"
        else:
            against = f" x {self.base[0]}"
        return f"{self.of[0]}: {figure} {self.sign} {self.factor:g}{against}"

    def labels(self):
        """The rows that it wants."""
        return {self.of[0], *([self.base[0]] if self.base else []), *([self.over] if self.over else [])}

    def is_kept_by(self, value):
        return {
            "<=": value <= self.factor, ">=": value >= self.factor, ">": value > self.factor, "<": value < self.factor,
        }[self.sign]


def is_better_when_higher(name):
    return name.endswith("per_s")


def values(figures, name):
    return [f[name] for f in figures if f.get(name) is not None]


def both(figures, name):
    """Best and median."""
    found = values(figures, name)
    if not found:
        return None, None
    return (max if is_better_when_higher(name) else min)(found), statistics.median(found)


def ratios(rows, of, base, over=None):
    """Best to best and median to median; the figures themselves when there is no base."""

    def of_row(label, name):
        upper, lower = both(rows.get(label, []), name), both(rows.get(over, []), name) if over else (0, 0)
        return (None, None) if None in (*upper, *lower) else tuple(u - l for u, l in zip(upper, lower))

    upper = of_row(*of)
    lower = of_row(*base) if base else (1, 1)
    if None in upper or None in lower:
        return None, None
    return tuple(u / l if l else float("inf") for u, l in zip(upper, lower))


def short(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def ratio_text(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


class Verdicts:
    """Prints goals with what became of them, and counts those that were missed, and those without a figure.

    A goal whose rows are not all there is of no account: somebody left them out.
    """

    def __init__(self):
        self.missed = 0
        self.unmeasured = 0

    def of(self, kept):
        self.missed += not kept
        return "met" if kept else "MISSED"

    def table(self, goals, rows):
        if goals:
            print("\n| goal | best | median | |\n|---|---:|---:|---|")
        for goal in goals:
            best, median = ratios(rows, goal.of, goal.base, goal.over)
            if best is None:
                lacks = goal.labels() <= rows.keys()
                self.unmeasured += lacks
                print(f"| {goal.text()} | - | - | {'NOT MEASURED' if lacks else 'not measured'} |")
                continue
            kept = [goal.is_kept_by(best), goal.is_kept_by(median)]
            says = self.of(True) if all(kept) else self.of(False) + (" by the median only" if kept[0] else "")
            print(f"| {goal.text()} | {ratio_text(best)} | {ratio_text(median)} | {says} |", flush=True)

    @property
    def are_good(self):
        return not self.missed and not self.unmeasured

    def text(self):
        """The last word of a run."""
        return f"{self.missed} goals missed, {self.unmeasured} without a figure"
