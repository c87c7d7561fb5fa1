"""What a run is asked for, and the settings of the papers by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from entcent_agents.branching import BranchPolicy, Calibration
from entcent_agents.chat.store import is_file_path
from entcent_agents.cli.serving import address_of
from entcent_agents.errors import ConfigurationError
from evals.runner.modes import Mode

_AS_BUILT: Final = ("temperature", "top_p", "max_tokens", "tool_calling")
"""What a model given by import path decides itself."""

_WITHOUT_BRANCHES: Final = ("single", "parallel", "step")
_OF_BRANCHES: Final = ("initial", "policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What decides what the model writes, and how many rollouts there are of each task.

    Attributes:
        model: As `--model` has it.
        mode: How rollouts are made.
        n: Rollouts a task; where they branch, at most. In mode step, answers at each step of the one there is.
        initial: Rollouts a task that are begun anew, where they branch.
        policy: When they branch.
        temperature: Of sampling. This, `top_p`, `max_tokens` and `tool_calling` hold for models served here or at an
            address; a model given by import path samples as it was built to.
        top_p: Nucleus; None leaves it to the server.
        top_logprobs: k, the alternatives asked for at each token.
        max_tokens: Most tokens of one reply.
        tool_calling: How tools are bound: by the API, or as JSON in the text.
        instruction: A system message put before the task's own messages; None: none.
        seed: From which the seeds of all requests follow; None leaves sampling to the server.

    Raises:
        ConfigurationError: On numbers that cannot be.
    """

    model: str
    mode: Mode = "parallel"
    n: int = 8
    initial: int = 2
    policy: BranchPolicy = field(default_factory=BranchPolicy)
    temperature: float = 0.7
    top_p: float | None = None
    top_logprobs: int = 10
    max_tokens: int | None = 1024
    tool_calling: Literal["text", "native"] = "text"
    instruction: str | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("initial", 1), ("top_logprobs", 1), ("max_tokens", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ConfigurationError(f"{name}={value} must be at least {least}")
        if self.mode == "single" and self.n != 1:
            raise ConfigurationError(f"mode single has one rollout a task, and n={self.n}: leave n out")
        if self.branches and self.initial > self.n:
            raise ConfigurationError(f"initial={self.initial} is above n={self.n}, the most rollouts of a task")

    @property
    def candidates(self) -> int:
        """Answers at each step of a rollout, of which it takes one."""
        return self.n if self.mode == "step" else 1

    @property
    def rollouts(self) -> int:
        """Rollouts a task; where they branch, at most."""
        return 1 if self.mode == "step" else self.n

    @property
    def branches(self) -> bool:
        """Whether rollouts branch."""
        return self.mode not in _WITHOUT_BRANCHES

    @property
    def adapts(self) -> bool:
        """Whether tasks get what others did not use."""
        return self.mode in ("adaptive", "adaptive-labels")

    @property
    def uses_labels(self) -> bool:
        """Whether rewards decide which tasks get it."""
        return self.mode == "adaptive-labels"

    @property
    def as_built(self) -> bool:
        """Whether the model is MODULE:NAME, and samples as it was built to."""
        return is_import_path(self.model)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal where a run goes on.

        All but the number of rollouts, which may grow where they do not branch, and the address of a server, which may
        move: of it the model's name stays.
        """
        grows = () if self.branches or self.mode == "step" else ("n",)
        hidden = {*grows, *(() if self.branches else _OF_BRANCHES), *(_AS_BUILT if self.as_built else ())}
        served = None if self.as_built else address_of(self.model)
        policy = {**asdict(self.policy), "decisions": sorted(self.policy.decisions)}
        named = {**asdict(self), "policy": policy, "model": served.name if served else self.model}
        return {name: value for name, value in named.items() if name not in hidden}


def is_import_path(model: str) -> bool:
    """Whether a model is named as MODULE:NAME."""
    return ":" in model and address_of(model) is None and not is_file_path(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The sampling settings of a paper.

    Attributes:
        source: Where they are stated.
        settings: Fields of `RunSettings`.
    """

    source: str
    settings: dict[str, Any]


PRESETS: Final = {
    "entropy-centroids": Preset(
        source="arXiv 2604.26173",
        settings={"n": 64, "temperature": 0.7, "top_p": 0.95, "top_logprobs": 10},
    ),
    # Its full parallel baseline, in its authors' example run; the branching itself is a mode of its own.
    "eager": Preset(source="arXiv 2510.11170", settings={"n": 32, "temperature": 0.6, "top_logprobs": 20}),
}


def preset_named(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ConfigurationError: Where there is none.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def branch_policy(calibration: Path | None = None, **asked: Any) -> BranchPolicy | None:
    """The policy with these fields, the others as they are by default; None where none is asked for.

    Args:
        calibration: A file whose thresholds count, and where rollouts then branch; None: none.
        **asked: Fields of `BranchPolicy`; None is not asked for.

    Raises:
        ConfigurationError: On settings that cannot be, two sources of thresholds, or a file that cannot be read.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if calibration is None:
        return BranchPolicy(**given) if given else None
    if "threshold" in given:
        raise ConfigurationError(f"--threshold, and those of --calibration {calibration}: leave one of them out")
    return BranchPolicy.from_file(calibration, **given)


def run_settings(preset: str | None, calibration: Path | None = None, **asked: Any) -> RunSettings:
    """The settings of a run: what was asked for, else the preset's, else the defaults.

    Args:
        preset: Its name; None: none.
        calibration: A file whose k is asked for, as its thresholds compare with no other; None: none.
        **asked: Fields of `RunSettings`; None is not asked for.

    Raises:
        ConfigurationError: On a preset that does not exist, or settings that cannot be.
    """
    given = preset_named(preset).settings if preset else {}
    if calibration is not None:
        asked["top_logprobs"] = _calibrated_k(calibration, asked.get("top_logprobs") or given.get("top_logprobs"))
    decided = [name for name in ("temperature", "top_p") if given.get(name) or asked.get(name) is not None]
    if decided and is_import_path(asked["model"]):
        raise ConfigurationError(
            f"{asked['model']} samples as it was built to: set {' and '.join(decided)} there, and name no preset here"
        )
    if asked.get("mode", "parallel") in _WITHOUT_BRANCHES and (asked.get("initial") or asked.get("policy")):
        raise ConfigurationError("nothing branches in this mode: name another --mode, or leave out when to branch")
    single: dict[str, Any] = {"n": 1} if asked.get("mode") == "single" else {}
    return RunSettings(**{**given, **single, **{name: value for name, value in asked.items() if value is not None}})


def _calibrated_k(calibration: Path, asked: int | None) -> int:
    """The k of a file; another one that is asked for is refused."""
    top_k = Calibration.read(calibration).top_k
    if asked not in (None, top_k):
        raise ConfigurationError(
            f"calibrated at top-k {top_k}, and the run asks for {asked}: entropies of both do not compare; "
            f"give --top-logprobs {top_k}, or calibrate at {asked}"
        )
    return top_k
