"""Thresholds measured on tasks without labels, and the small file that keeps them."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import PhaseConfig
from entcent_agents.trajectory import Decision

VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Where the tokens of a model are uncertain, compared with what it wrote for some tasks.

    Attributes:
        model: Whose tokens; None where nobody said it.
        top_k: The k behind the entropies, which compare with no other k.
        tasks: How many tasks were looked at.
        turns: How many turns.
        tokens: How many scored tokens.
        percentile: Of the entropies of decision tokens, the one that `threshold` is.
        threshold: Nats, by what is decided; without those that the tasks had no tokens of.
        phases: With fixed thresholds, which are percentiles of the entropies of all tokens.

    Raises:
        ConfigurationError: On numbers that cannot be.
    """

    model: str | None = None
    top_k: int
    tasks: int
    turns: int
    tokens: int
    percentile: float
    threshold: Mapping[Decision, float]
    phases: PhaseConfig

    def __post_init__(self) -> None:
        for name in ("top_k", "tasks", "turns", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0.0 <= self.percentile <= 100.0:
            raise ConfigurationError(f"percentile={self.percentile} must be a number from 0 to 100")
        if not self.threshold:
            raise ConfigurationError("no threshold: no token decides anything, or nobody knows what tokens belong to")
        for decision, nats in self.threshold.items():
            if not 0.0 <= nats < math.inf:
                raise ConfigurationError(f"threshold.{decision}={nats} must be finite nats, at least 0")
        if self.phases.thresholds is None:
            raise ConfigurationError("phases without thresholds: nothing was calibrated")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read what `write` wrote, or somebody wrote by hand.

        Raises:
            ConfigurationError: Where there is no such file, or it is not one of these.
        """
        try:
            record = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"calibration {path} cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"calibration {path} is no TOML: {error}") from None
        version = record.pop("version", None)
        if version != VERSION:
            raise ConfigurationError(
                f"calibration {path} is of version {version!r}; this release reads {VERSION}: run  entcent calibrate"
            )
        try:
            return cls._of(msgspec.convert(record, _File))
        except (msgspec.ValidationError, ConfigurationError) as error:
            raise ConfigurationError(f"calibration {path}: {error}") from None

    def write(self, path: Path | str) -> None:
        """Write it down, whole or not at all.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        path = Path(path)
        unfinished = path.with_name(f"{path.name}.unfinished")
        try:
            unfinished.write_text(self.to_toml(), encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            raise ConfigurationError(f"calibration {path} cannot be written: {error.strerror}") from None

    def to_toml(self) -> str:
        """What is in the file."""
        phases = asdict(self.phases)
        high, low = phases.pop("thresholds")
        tables = {
            "measured": {name: getattr(self, name) for name in _Measured.__struct_fields__},
            "branching": {"percentile": self.percentile},
            "branching.threshold": self.threshold,
            "phases": {"high": high, "low": low, **phases},
        }
        lines = ["# Written by `entcent calibrate`. Entropies are in nats; see docs/calibration.md.", ""]
        lines += [f"version = {VERSION}"]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {_value(each)}" for key, each in table.items() if each is not None)]
        return "\n".join(lines) + "\n"

    @classmethod
    def _of(cls, file: _File) -> Self:
        phases = msgspec.structs.asdict(file.phases)
        thresholds = (phases.pop("high"), phases.pop("low"))
        return cls(
            **msgspec.structs.asdict(file.measured),
            percentile=file.branching.percentile,
            threshold=file.branching.threshold,
            phases=PhaseConfig(**phases, thresholds=thresholds),
        )


class _Measured(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str | None = None
    top_k: int
    tasks: int
    turns: int
    tokens: int


class _Branching(msgspec.Struct, forbid_unknown_fields=True):
    percentile: float
    threshold: dict[Decision, float]


class _Phases(msgspec.Struct, forbid_unknown_fields=True):
    high: float
    low: float
    top_percent: float
    bottom_percent: float
    consecutive_low: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The tables of the file."""

    measured: _Measured
    branching: _Branching
    phases: _Phases


def _value(value: Any) -> str:
    """A number or a text as TOML has it: texts as JSON, but for one character that JSON lets stand."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
