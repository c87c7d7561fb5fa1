"""A report as tables, for a terminal and for a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table as RichTable

from entcent_agents.signals import SIGNALS
from entcent_agents.statistics import Estimate
from evals.scoring.branches import BranchLine
from evals.scoring.comparing import Compared, Matched
from evals.scoring.passing import PassRates
from evals.scoring.report import Report

BASELINES: Final = (
    "first",
    "shortest",
    "longest",
    "majority vote",
    "highest log-probability",
)
"""What costs the same tokens and reads no entropy, beside the random candidate."""
NO_FIGURE: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text; the first column is a name, the others are figures. A cell may have several lines."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(
            box=None, pad_edge=False, title=self.title, title_justify="left", caption=self.note, caption_justify="left"
        )
        for place, name in enumerate(self.head):
            table.add_column(name, justify="right" if place else "left", no_wrap=bool(place))
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """For a page."""
        rule = ["---", *("---:" for _ in self.head[1:])]
        lines = [f"| {' | '.join(row)} |".replace("\n", "<br>") for row in (self.head, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else []), ""])


def tables_of(report: Report, *, long: bool = False) -> Iterator[Table]:
    """The tables of a report; with `long` that by size too."""
    yield _rates(report.rates)
    yield _passes(report.rates)
    yield _selectors(report)
    for name, differences in report.confirmed.items():
        yield _confirmed(name, differences, long)
    if long:
        yield _sizes(report)
    yield _signals(report)


def _rates(rates: Iterable[PassRates]) -> Table:
    rows = [
        [
            one.name,
            f"{one.tasks:,}",
            f"{one.mixed_tasks / one.tasks:.2f}",
            f"{one.rollouts:,}",
            f"{one.unfinished:,}",
            f"{one.lowest_coverage:.2f}",
            f"{one.scored_tokens:,.0f}",
            f"{one.prompt_tokens:,}",
            f"{one.generated_tokens:,}",
            f"{one.reused_tokens:,}",
            f"{one.seconds:.1f}",
        ]
        for one in rates
    ]
    head = ["tasks of", "tasks", "mixed", "rollouts", "unfinished", "lowest coverage", "scored tokens", "prompt"]
    return Table(
        title="What was run",
        head=[*head, "generated", "reused", "seconds"],
        rows=rows,
        note="mixed: share of tasks with right and wrong candidates; the others cannot tell selectors apart. "
        "scored tokens: median candidate. prompt, generated, reused: tokens of all rollouts. seconds: of a rollout.",
    )


def _passes(rates: Sequence[PassRates]) -> Table:
    ks = sorted({k for one in rates for k in one.pass_k})
    shown = [k for k in ks if k == ks[-1] or k in (2, 4)]
    rows = [
        [
            one.name,
            *with_interval(one.pass_1),
            *(mean_text(one.pass_k.get(k)) for k in shown),
            *(mean_text(one.pass_all.get(k)) for k in shown),
            *(mean_text(one.consensus.get(k)) for k in shown),
        ]
        for one in rates
    ]
    names = [f"{what}{k}" for what in ("pass@", "pass^", "cons@") for k in shown]
    return Table(
        title="The model by itself",
        head=["tasks of", "pass@1", "95 %", *names],
        rows=rows,
        note="pass@k: one of k passes; pass^k: all of k; both unbiased. cons@k: the most common outcome of k, ties "
        "drawn. pass counts all rollouts, cons and selectors those that finished.",
    )


def _selectors(report: Report) -> Table:
    tasks = report.rates[0].tasks
    lines = sorted(report.selectors, key=lambda one: one.selector not in BASELINES)
    rows = [
        ["random candidate", "", *with_interval(report.random), mean_text(report.random_mixed), "", "", ""],
        *(
            [
                one.selector,
                f"{one.decided}/{tasks}",
                *with_interval(one.accuracy),
                mean_text(one.mixed),
                *with_interval(one.gain, sign="+"),
                NO_FIGURE if one.null is None else f"{one.null:.3f}",
            ]
            for one in lines
        ),
        ["oracle", "", *with_interval(report.oracle), "", "", "", ""],
    ]
    return Table(
        title=f"Selectors over {tasks} tasks, {report.rates[0].mixed_tasks} of them mixed",
        head=["selector", "decided", "accuracy", "95 %", "mixed", "vs random", "95 %", "null"],
        rows=rows,
        note="95 %: bootstrap over tasks, differences paired. mixed, vs random, null: over mixed tasks. An abstention "
        "counts as a random candidate. null: trajectories shuffled within each task. All choose from the same "
        "rollouts, so all cost the same tokens; the first rows are baselines that read no entropy.",
    )


def _confirmed(name: str, differences: Mapping[str, Estimate], long: bool) -> Table:
    return Table(
        title=f"{name}, against others",
        head=["selector", "difference", "95 %"],
        rows=[
            [other, *with_interval(difference, sign="+")]
            for other, difference in differences.items()
            if long or other in ("default chain", *BASELINES)
        ],
        note="Its accuracy minus theirs over the mixed tasks reported here, paired by task; it was chosen on others.",
    )


def _sizes(report: Report) -> Table:
    sizes = sorted({size for one in report.selectors for size in one.sizes})
    rows = [
        [one.selector, *(f"{one.sizes[size]:.3f}" if size in one.sizes else NO_FIGURE for size in sizes)]
        for one in report.selectors
    ]
    return Table(
        title="Accuracy by number of rollouts",
        head=["selector", *(f"n = {size}" for size in sizes)],
        rows=rows,
        note="Over all tasks; drawn from the stored rollouts, none twice.",
    )


def _signals(report: Report) -> Table:
    rows = [
        [f"{SIGNALS[one.signal].best} {SIGNALS[one.signal].label}", str(one.tasks), *with_interval(one.auroc)]
        for one in report.signals
    ]
    return Table(
        title="Signals: AUROC within a task",
        head=["signal", "tasks", "AUROC", "95 %"],
        rows=rows,
        note="How often a right candidate is better by the signal than a wrong one of the same task: 0.5 is chance.",
    )


def mean_text(estimate: Estimate | None) -> str:
    """The mean as tables show it."""
    return NO_FIGURE if estimate is None else f"{estimate.mean:.3f}"


def with_interval(estimate: Estimate | None, sign: str = "") -> list[str]:
    """Mean and interval as tables show them; with the sign "+" for differences."""
    if estimate is None:
        return [NO_FIGURE, NO_FIGURE]
    low, high = estimate.low, estimate.high
    interval = "one task" if low != low else f"{low:{sign}.3f} to {high:{sign}.3f}"
    return [f"{estimate.mean:{sign}.3f}", interval]


def compared(title: str, names: Sequence[str], rows: Iterable[Compared], note: str = "") -> Table:
    """Several runs on the same tasks: of each figure all means, and the differences to the first with intervals."""
    shown = [
        [
            one.name,
            mean_text(one.means[0]),
            *(
                text
                for mean, difference in zip(one.means[1:], one.differences, strict=True)
                for text in (mean_text(mean), *with_interval(difference, sign="+"))
            ),
        ]
        for one in rows
    ]
    first, *others = names
    head = ["figure", first, *(text for name in others for text in (name, "difference", "95 %"))]
    return Table(title=title, head=head, rows=shown, note=note)


def matched(first: str, found: Mapping[str, Matched]) -> Table:
    """Runs beside the first one at the tokens that they generated."""
    return Table(
        title=f"At equal tokens: fewer rollouts of {first}",
        head=["run", "generated tokens", "as many rollouts", "their pass@k", "pass@k of the run", "difference", "95 %"],
        rows=[
            [
                name,
                f"{one.generated_tokens:,.0f}",
                f"{one.samples:.2f}",
                mean_text(one.fewer),
                mean_text(one.found),
                *with_interval(one.difference, sign="+"),
            ]
            for name, one in found.items()
        ],
        note="as many rollouts: of the first run, that generate as many tokens as the run did; their pass@k is "
        "unbiased, and interpolated between whole numbers of rollouts.",
    )


def branched(name: str, lines: Iterable[BranchLine]) -> Table:
    """Where the rollouts of a run branched."""
    rows = [
        [
            f"{one.decision}, {one.method}" if one.decision != one.method else one.decision,
            f"{one.branches:,}",
            f"{one.entropy:.3f}",
            *(f"{count:,}" for count in (one.other_calls, one.other_tools, one.other_outcomes, one.better, one.worse)),
        ]
        for one in lines
    ]
    return Table(
        title=f"{name}: where rollouts branched",
        head=["decision", "branches", "entropy", "other calls", "other tools", "other outcome", "better", "worse"],
        rows=rows,
        note="entropy: nats, where branches left their parents, the mean. other calls: other tools or arguments than "
        "the parent's in that turn, or calls where it answered. better: right where the parent is wrong; worse: the "
        "other way round.",
    )
