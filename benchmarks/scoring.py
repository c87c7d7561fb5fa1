"""What arrays save in scoring: our functions next to plain Python, in one run.

    python -m benchmarks.scoring

Prints ratios of CPU time and of peak memory: absolute times say more of the machine than of the code. Ends with exit
code 1 where a ratio misses its floor.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from entcent_agents import confidence as signals
from entcent_agents.centroid import entropy_centroid
from entcent_agents.entropy import token_distribution, token_entropy
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import high_entropy_phases, percentile

GROWTH_LIMIT: Final = 2.0
STORED_LIMIT: Final = 32  # bytes a token: 64 MiB for 64 trajectories of 32,768 tokens
REPEATS: Final = 5
Array = NDArray[np.float64]


class Scored(NamedTuple):
    """One trajectory; `rows` has shape `(T, K)`, the others `(T,)`."""

    rows: Array
    entropy: Array
    logprob: Array
    confidence: Array


class Comparison(NamedTuple):
    """A piece of work on columns of a trajectory, done by us with arrays and by plain Python with lists."""

    name: str
    floor: float
    columns: list[str]
    ours: Callable[..., object]
    theirs: Callable[..., object]


def trajectory(tokens: int, k: int) -> Scored:
    """Random alternatives, some of the tokens near certain and some undecided, best first."""
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(0.0, 1.0, (tokens, k)) * rng.gamma(2.0, 2.0, (tokens, 1)), axis=1)[:, ::-1]
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) - 0.01
    found = token_distribution(rows)
    return Scored(rows, found.entropy, rows[:, 0].copy(), found.confidence)


def as_lists(column: Array) -> list[Any]:
    """A column in Python; alternatives as one dictionary a token, as payloads have them (all share the strings)."""
    if column.ndim == 1:
        return column.tolist()
    names = [f"token {i}" for i in range(column.shape[1])]
    return [dict(zip(names, row, strict=True)) for row in column.tolist()]


def plain_entropies(tokens: list[dict[str, float]], k: int) -> list[float]:
    """Entropies, one token at a time."""
    found = []
    for alternatives in tokens:
        top = sorted(alternatives.values(), reverse=True)[:k]
        mass = [math.exp(logprob) for logprob in top]
        total = sum(mass)
        found.append(-sum(p / total * math.log(p / total) for p in mass if p))
    return found


def plain_phases(entropy: list[float], thresholds: tuple[float, float], consecutive: int = 2) -> list[tuple[int, int]]:
    """Phases by a state machine: (start, length)."""
    high, low = thresholds
    phases: list[tuple[int, int]] = []
    start, run = -1, 0
    for i, value in enumerate(entropy):
        if start < 0:
            if value >= high and value > low:
                start, run = i, 0
        elif value > low:
            run = 0
        else:
            run += 1
            if run == consecutive:
                phases.append((start, i - run + 1 - start))
                start = -1
    if start >= 0:
        phases.append((start, len(entropy) - start))
    return phases


def plain_centroid(entropy: list[float], thresholds: tuple[float, float]) -> float | None:
    """The centroid of those phases."""
    phases = plain_phases(entropy, thresholds)
    mass = len(entropy) * sum(length for _, length in phases)
    return sum(length * (start + length / 2) for start, length in phases) / mass if mass else None


def plain_signals(
    entropy: list[float], logprob: list[float], confidence: list[float], window: int, k: int
) -> list[float]:
    """All signals, with a sum for each window (one list of them serves both group signals)."""
    width = min(window, len(confidence))
    groups = [sum(confidence[i : i + width]) / width for i in range(len(confidence) - width + 1)]
    lowest = sorted(groups)[: max(1, len(groups) // 10)]
    tails = [sum(column[-width:]) / width for column in (entropy, confidence)]
    means = [sum(column) / len(column) for column in (entropy, logprob, confidence)]
    peak_entropy = sorted(entropy)[int(0.999 * (len(entropy) - 1))]
    derived = [sum(logprob), math.exp(-means[1]), means[2] - math.log(k)]
    return [*means, *tails, *derived, peak_entropy, min(groups), sum(lowest) / len(lowest)]


def our_signals(entropy: Array, logprob: Array, confidence: Array, window: int, k: int) -> list[float | None]:
    """The same by `entcent_agents.confidence`."""
    groups = signals.lowest_group_confidence, signals.bottom_confidence, signals.tail_confidence
    return [
        *(signal(entropy) for signal in (signals.mean_entropy, signals.peak_entropy)),
        *(signal(logprob) for signal in (signals.mean_logprob, signals.sum_logprob, signals.perplexity)),
        *(signal(confidence, window) for signal in groups),
        signals.tail_entropy(entropy, window),
        signals.mean_confidence(confidence),
        signals.self_certainty(confidence, k),
    ]


def comparisons(first: Scored, window: int) -> list[Comparison]:
    """The pieces of work; phases have the thresholds of the first trajectory given."""
    k = first.rows.shape[1]
    at = {"thresholds": (percentile(first.entropy, 99.0), percentile(first.entropy, 80.0))}
    settings, columns = {"window": window, "k": k}, ["entropy", "logprob", "confidence"]
    return [
        Comparison("entropies", 40.0, ["rows"], token_entropy, partial(plain_entropies, k=k)),
        Comparison("phases", 5.0, ["entropy"], partial(high_entropy_phases, **at), partial(plain_phases, **at)),
        Comparison(
            "phases, centroid", 5.0, ["entropy"], partial(entropy_centroid, **at), partial(plain_centroid, **at)
        ),
        Comparison("11 signals", 200.0, columns, partial(our_signals, **settings), partial(plain_signals, **settings)),
    ]


def seconds(*passes: tuple[Callable[..., object], list[list[Any]]]) -> list[float]:
    """Least CPU seconds of each pass over all its inputs; they take turns, so that a busy machine is busy for all."""
    taken: list[list[float]] = [[] for _ in passes]
    for _ in range(REPEATS):
        for (work, inputs), times in zip(passes, taken, strict=True):
            started = time.process_time()
            for columns in inputs:
                work(*columns)
            times.append(time.process_time() - started)
    return [min(times) for times in taken]


def peak(convert: Callable[[Array], Any], columns: list[Array], work: Callable[..., object]) -> int:
    """Most bytes at one time, of the input and of the work on it."""
    tracemalloc.start()
    work(*map(convert, columns))
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


def compare(work: Comparison, scored: list[Scored], long: Scored) -> tuple[float, float, float]:
    """Ratios: CPU time and memory of plain Python to ours, and our time per token on the long trajectory."""
    *inputs, endless = [[getattr(each, name) for name in work.columns] for each in (*scored, long)]
    plain = [[as_lists(column) for column in inputs[0]]]
    ours, longest, theirs = seconds((work.ours, inputs), (work.ours, [endless]), (work.theirs, plain))
    ours /= len(inputs)
    growth = longest / len(endless[0]) / (ours / len(inputs[0][0]))
    memory = peak(as_lists, inputs[0], work.theirs) / peak(np.copy, inputs[0], work.ours)
    return theirs / ours, memory, growth


def stored(scored: list[Scored], k: int) -> tuple[float, float]:
    """MiB of the trajectories as records, by the sizes of their arrays and by tracemalloc."""
    tracemalloc.start()
    records = [
        TokenLogprobs(
            text=b" the" * len(each.entropy),
            offsets=np.arange(len(each.entropy) + 1, dtype=np.int32) * np.int32(4),
            residual=np.zeros(len(each.entropy), np.float32),
            top_k=k,
            **{name: getattr(each, name).astype(np.float32) for name in ("logprob", "entropy", "confidence")},
        )
        for each in scored
    ]
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    parts = (getattr(record, field.name) for record in records for field in fields(record))
    size = sum(memoryview(part).nbytes for part in parts if isinstance(part, bytes | np.ndarray))
    return size / 2**20, traced / 2**20


def main(
    trajectories: Annotated[int, typer.Option(min=1)] = 64,
    tokens: Annotated[int, typer.Option(min=1)] = 32_768,
    top_k: Annotated[int, typer.Option(min=1)] = 20,
    long: Annotated[int, typer.Option(min=1, help="Tokens of the one long trajectory.")] = 2**20,
    window: Annotated[int, typer.Option(min=1)] = signals.DEFAULT_WINDOW,
) -> None:
    """Measure, print, and end with exit code 1 where a floor is missed."""
    first = trajectory(tokens, top_k)
    scored = [Scored(*(np.roll(column, i, axis=0) for column in first)) for i in range(trajectories)]
    endless = Scored(*(np.resize(column, (long, *column.shape[1:])) for column in first))
    title = f"{trajectories} trajectories of {tokens:,} tokens, top {top_k}: plain Python, times ours"
    table = Table("", "CPU time", "floor", "peak memory", f"a token at {long:,}", "limit", title=title)
    missed = False
    for work in comparisons(first, window):
        cpu, memory, growth = compare(work, scored, endless)
        missed |= cpu < work.floor or growth > GROWTH_LIMIT
        table.add_row(work.name, f"{cpu:.1f}", f"{work.floor:g}", f"{memory:.1f}", f"{growth:.2f}", f"{GROWTH_LIMIT:g}")
    counted, traced = stored(scored, top_k)
    limit = STORED_LIMIT * trajectories * tokens / 2**20
    missed |= max(counted, traced) >= limit
    console = Console()
    console.print(table)
    console.print(f"Stored: {counted:.1f} MiB of arrays and text, {traced:.1f} MiB traced; limit {limit:g} MiB.")
    console.print(
        f"Plain Python ran on one trajectory, its time times {trajectories}; memory is that of one trajectory, input "
        f"included. Groups are of {window:,} tokens. A token of the long trajectory: our CPU time against that of a "
        "short one."
    )
    if missed:
        sys.exit("A floor or a limit was missed.")


if __name__ == "__main__":
    typer.run(main)
