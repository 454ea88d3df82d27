"""A line: one model that you serve, with its source, its suites and its rollout.

Each line is a YAML file in `lines/`; the file's name is the line's name. Every field is described where it is defined.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from weighbridge.documents import parse_yaml, read_yaml
from weighbridge.errors import DocumentInvalid, LineInvalid, LineUnknown
from weighbridge.line_schedules import Schedules
from weighbridge.settings import load_settings
from weighbridge.source_urls import HUB, canonical, kind_of, repo_of
from weighbridge.suggestions import did_you_mean
from weighbridge.validation import fault_of, field_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
NAMES = "a name has at most 40 of a-z, 0-9 and -, and does not end with -candidates"
StickyBy = Literal["none", "conversation", "key"]


def is_line_name(name: str) -> bool:
    """True if a line may have this name.

    The reviewers' model of a line `llama-candidates` would be the pipeline's of `llama`, and so all in it approved.
    """
    return bool(LINE_NAME.fullmatch(name)) and not name.endswith("-candidates")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Admission(_Part):
    """Conditions that a release must meet before any of its weights are downloaded."""

    licences: list[str] = Field(
        description="allowed licences, as SPDX ids of the model card; an empty list allows none"
    )
    architectures: list[str] = Field([], description="allowed class names in config.json; empty: every known causal LM")
    max_download_gib: float = Field(2000, gt=0, description="largest release, GiB of its files")


class Watch(_Part):
    """What the watch looks for at the source, and what it does about it."""

    on_new: Literal["release", "notify"] = Field(
        "release",
        description="for an admissible new commit: start a release (candidates await approval), or only report",
    )
    on_unchanged: Literal["ignore", "release"] = Field(
        "ignore",
        description="for a new commit whose weights, tokenizer, templates and configs are those of the last release: "
        "say so and release nothing, or treat it as any new commit",
    )
    on_successor: Literal["notify", "release"] = Field(
        "notify", description="for an admissible successor: only report it, or start a release of it"
    )
    successors: list[str] = Field(
        [], description="globs over names of repositories, as Llama-*-8B-Instruct; empty: no search for successors"
    )
    author: str = Field("", description="owner whose repositories are searched; by default that of the source")
    architectures: list[str] = Field(
        [], description="allowed architectures of a successor; empty: those of the admission rules"
    )
    parameters_billion: tuple[float, float] | None = Field(
        None, description="fewest and most parameters of a successor, in billions, as [7, 9]"
    )

    @field_validator("parameters_billion")
    @classmethod
    def _a_range(cls, span: tuple[float, float] | None) -> tuple[float, float] | None:
        if span and not 0 <= span[0] <= span[1]:
            raise ValueError("must be the fewest and the most, as [7, 9]")
        return span

    @field_validator("successors")
    @classmethod
    def _names(cls, patterns: list[str]) -> list[str]:
        if any("/" in pattern or not pattern for pattern in patterns):
            raise ValueError("must be globs over names without the owner, as Llama-*-8B-Instruct")
        return patterns


class Target(_Part):
    """Hardware that the line runs on, and the load that it must carry."""

    gpus: list[str] = Field(
        min_length=1, description="names in tasks/fit/hardware/gpus.yaml; `host` is this machine's memory"
    )
    context: int = Field(4096, ge=16, description="longest prompt and answer together, tokens")
    concurrency: int = Field(8, ge=1, description="requests at once, each with full context")


class SchemeChoice(_Part):
    """A recipe for one scheme, in place of the pipeline's own choices."""

    methods: list[str] = Field(
        [], description="files in tasks/quantize/methods/, cheapest first; empty: the scheme's own"
    )
    group_size: int | None = Field(None, ge=16, description="input columns that share a scale")
    ignore: list[str] = Field(
        [], description="globs over names of layers that stay as published, in addition to the usual ones"
    )


CHOOSE_NOTHING = SchemeChoice()


class Quantize(_Part):
    """How candidates are quantized."""

    minutes: float = Field(
        240,
        gt=0,
        description="a costlier method starts only while the cheaper ones took less than this together, minutes",
    )
    calibration: str | None = Field(
        None, description="file of text or messages for calibrating methods; by default the project's own"
    )
    schemes: dict[str, SchemeChoice] = Field({}, description="recipes by the scheme's name")

    def choice(self, scheme: str) -> SchemeChoice:
        """Return the recipe for a scheme; by default one without choices."""
        return self.schemes.get(scheme, SchemeChoice())


class SuiteUse(_Part):
    """A suite, and the margin for its verdict."""

    name: str = Field(description="general/<task> or regression/<file>", pattern=r"^(general|regression)/[\w-]+$")
    margin: float = Field(0.02, gt=0, lt=1, description="largest loss that still counts as no worse, on a scale of 1")


class Engine(_Part):
    """The engine that serves the line, and its flags."""

    name: str = Field("transformers", description="a file in tasks/engines/")
    flags: dict[str, str | int | float | bool] = Field(
        {}, description="passed to the engine as --name value; candidates are weighed with the same flags"
    )
    parity: Literal["off", "report", "refuse"] = Field(
        "off",
        description="compare the engine's output with its artifact's: not at all; report a difference; or refuse it",
    )


class ShadowStep(_Part):
    """Mirroring before the first step: requests are sent to the new version as well; responses are discarded."""

    per_cent: int = Field(10, ge=1, le=100, description="share of the line's requests that is mirrored")
    hold_seconds: float = Field(
        60, ge=0, description="shortest time of mirroring, seconds; the longest is the rollout's max_hold_seconds"
    )


class Rollout(_Part):
    """How traffic is shifted to a new version."""

    shadow: ShadowStep | None = Field(
        None, description="mirror requests to the new version before it receives traffic; none: no mirroring"
    )
    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [1, 10, 50, 100], description="canary steps: per cent of requests that the new version receives"
    )
    hold_seconds: float = Field(60, ge=0, description="shortest time at a step, seconds")
    min_requests: int = Field(
        0, ge=0, description="requests that the new version must have answered before the next step"
    )
    max_hold_seconds: float = Field(600, gt=0, description="longest time at a step without a decision, seconds")
    max_error_share: float = Field(
        0.01, ge=0, le=1, description="tolerated share of failed requests; above it, production must be as bad"
    )
    max_error_rise: float = Field(
        0.05,
        gt=0,
        le=1,
        description="rise of that share over production's that is no worse, at all of the line's traffic;"
        " at the longest stay a step goes on if the rise times the next weight is shown to be within it",
    )
    max_empty_share: float = Field(
        0.02, ge=0, le=1, description="tolerated share of empty answers; above it, production must be as bad"
    )
    max_latency_ratio: float = Field(
        1.5,
        gt=1,
        description="largest ratio to production: first byte, time per token, p50, p95, p99 of whole answers",
    )
    max_length_ratio: float = Field(
        2.0, gt=1, description="largest ratio to production of the median length of answers"
    )
    min_length_ratio: float = Field(
        0.8, gt=0, lt=1, description="smallest ratio to production of the median length of answers"
    )
    when_errors_unsure: Literal["go_on", "ask", "stop"] = Field(
        "ask",
        description="if errors or empty answers seem too many at max_hold_seconds, but without statistical evidence:"
        " go on, or hold the step for up to max_unsure_factor times as long, and then ask a person or stop",
    )
    when_speed_unsure: Literal["go_on", "ask", "stop"] = Field(
        "go_on", description="the same for latency and length, which a cold cache or a busy hour can explain"
    )
    max_unsure_factor: float = Field(
        6, ge=1, description="longest time at a step that looks worse, in multiples of max_hold_seconds"
    )
    control_per_cent: int = Field(
        1,
        ge=0,
        le=10,
        description="share of the requests that stays with production during the last step, while it is healthy,"
        " so that both are compared at the same time",
    )
    when_no_room: Literal["refuse", "swap"] = Field(
        "refuse",
        description="if old and new version do not fit side by side: refuse, or stop the old one first (with a gap)",
    )
    hold_requests_seconds: float = Field(
        30,
        ge=0,
        le=600,
        description="longest time that a request is queued in that gap before it is answered 503, seconds",
    )
    sticky_by: StickyBy = Field("none", description="unit that stays with one version while the weights do not change")
    drain_seconds: float = Field(120, ge=0, description="longest wait for active requests to end, seconds")
    node_lost_seconds: int = Field(
        30,
        ge=0,
        le=3600,
        description="on Kubernetes: time after which the pods of a node that does not answer are replaced, seconds",
    )
    keep_warm_minutes: float = Field(60, ge=0, description="how long an engine without traffic stays up, minutes")

    @field_validator("steps")
    @classmethod
    def _rising_to_100(cls, steps: list[int]) -> list[int]:
        if steps != sorted(set(steps)) or not steps or steps[-1] != 100:
            raise ValueError("must rise and end at 100")
        return steps


class Approval(_Part):
    """Conditions for an approval beyond a passing verdict (docs/how-to/approve.md)."""

    max_age_days: float = Field(
        14, gt=0, description="an approval that was not acted on within this time expires, days"
    )
    overriders: list[str] = Field([], description="people who may approve a candidate that did not pass; empty: nobody")


class Bounds(_Part):
    """How far a candidate may drift from production, beside accuracy; decided by intervals, and `null` only reports.

    The defaults are for a quantization of the same release, measured on a model of 135 million parameters: its INT8
    passes, plain INT4 does not (docs/evidence/drift.md). Larger models drift less.
    """

    max_kl_nats: float | None = Field(0.25, gt=0, description="KL divergence on held-out text, nats per token")
    min_top1_agreement: float | None = Field(
        0.75, gt=0, lt=1, description="share of held-out tokens where both models rank the same next token first"
    )
    max_text_mismatch_share: float | None = Field(
        0.0, ge=0, lt=1, description="share of held-out texts that tokenizer or chat template turn into other tokens"
    )
    max_flips_share: float | None = Field(
        0.10, gt=0, lt=1, description="share of items that changed between right and wrong, all suites together"
    )
    max_length_ratio: float | None = Field(
        1.5, gt=1, description="typical ratio of answer lengths, and its inverse, since answers may not shrink either"
    )
    max_refusal_rise: float | None = Field(0.05, gt=0, lt=1, description="increase of the share of refusals")
    max_language_change_share: float | None = Field(
        0.05, gt=0, lt=1, description="share of answers in another language than production's"
    )
    max_degenerate_share: float | None = Field(
        0.05, gt=0, lt=1, description="share of answers that loop, are empty or leak tokens while production's does not"
    )
    max_latency_ratio: float | None = Field(None, gt=1, description="typical ratio of answer times")
    min_throughput_ratio: float | None = Field(None, gt=0, lt=1, description="typical ratio of tokens per second")


class Line(_Part):
    """A model line, loaded by `Line.load`."""

    name: str
    source: str = Field(description="hf://org/model, file:///folder or s3://bucket/prefix")
    revision: str = Field("main", description="branch or tag to follow, on the Hub")
    admission: Admission
    schemes: list[str] = Field(min_length=1, description="files in tasks/schemes/: bf16, int8, int4, …")
    target: Target
    quantize: Quantize = Quantize()
    engine: Engine = Engine()
    suites: list[SuiteUse] = Field(min_length=1)
    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided, of `non_inferior` in each suite")
    bounds: Bounds = Bounds()
    noise_floor: bool = Field(
        False, description="score production twice, and show the flips between the two runs beside the verdict"
    )
    approval: Approval = Approval()
    rollout: Rollout = Rollout()
    watch: Watch = Watch()
    schedules: Schedules = Schedules()

    @field_validator("source")
    @classmethod
    def _address(cls, source: str) -> str:
        return canonical(source)

    @model_validator(mode="after")
    def _successors_on_the_hub(self) -> Line:
        if self.watch.successors and kind_of(self.source) != HUB:
            raise ValueError("watch.successors: only the Hub lists an author's repositories; leave it away")
        return self

    @property
    def repo(self) -> str:
        """Name of the source in records: `org/model` on the Hub, elsewhere its address."""
        return repo_of(self.source)

    @property
    def candidates_model(self) -> str:
        """Name of the registered model that the pipeline writes."""
        return f"{self.name}-candidates"

    @classmethod
    def load(cls, name: str, folder: Path | None = None) -> Line:
        """Read a line's file.

        Args:
            name: Name of the line, which is its file's name without `.yaml`.
            folder: Folder of the lines; by default the project's `lines/`.

        Raises:
            LineUnknown: There is no such file.
            LineInvalid: The file's name is no line's, the file is no regular one or not YAML, or a field is missing,
                unknown or out of range.
        """
        folder = folder or load_settings().root / "lines"
        path, names = folder / f"{name}.yaml", line_names(folder)
        if name not in names:
            raise LineUnknown(
                f"There is no line called {name!r}; known lines: {', '.join(names) or 'none yet'}.",
                f"Name one of these, or write {folder.name}/{name}.yaml (docs/how-to/write-a-line.md says how).",
            )
        if not is_line_name(name):
            raise LineInvalid(
                f"A line cannot be called {name!r}: {NAMES}.",
                "Rename the file.",
                where=f"{folder.name}/{path.name}",
            )
        return cls._parse(name, path)

    @classmethod
    def _parse(cls, name: str, path: Path) -> Line:
        place = f"{path.parent.name}/{path.name}"
        try:
            fields: Any = read_yaml(path)
        except DocumentInvalid as error:
            at = error.where.replace(str(path), place, 1)
            raise LineInvalid(error.what, error.next_step, where=at) from None
        return cls._checked(name, fields, place)

    @classmethod
    def parse(cls, name: str, text: str, path: Path) -> Line:
        """Read a line that is not written yet.

        Args:
            name: Name of the line.
            text: Of its file.
            path: Where it will be, for messages.

        Raises:
            LineInvalid: As `load`.
            DocumentInvalid: It is no YAML.
        """
        place = f"{path.parent.name}/{path.name}"
        return cls._checked(name, parse_yaml(text, place), place)

    @classmethod
    def _checked(cls, name: str, fields: Any, place: str) -> Line:
        if not isinstance(fields, dict):
            raise LineInvalid("The file must be a mapping of fields.", "See docs/how-to/write-a-line.md.", where=place)
        try:
            return cls.model_validate({**fields, "name": name})
        except ValidationError as error:
            problems = "; ".join(
                f"{field_of(problem)}: {_describe(problem)}" for problem in error.errors(include_url=False)
            )
            raise LineInvalid(
                f"{problems}.", "Correct them; docs/reference/line.md lists all fields.", where=place
            ) from None


def _describe(problem: ErrorDetails) -> str:
    """Say what is wrong with one field; pydantic calls an unknown field an extra input."""
    kind, path = problem["type"], problem["loc"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        suggestion = did_you_mean(str(path[-1]), _fields_at(path[:-1])).removeprefix("; ")
        return f"unknown field ({suggestion})" if suggestion else "unknown field"
    return fault_of(problem)


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place in the file; empty where a dictionary takes any name."""
    part: Any = Line
    for name in path:
        if isinstance(name, str):
            field = part.model_fields.get(name)
            part = next(filter(_is_part, (field.annotation, *get_args(field.annotation))), None) if field else None
        if part is None:
            return []
    return [name for name in part.model_fields if name != "name" or path]


def _is_part(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, _Part)


def line_names(folder: Path | None = None) -> list[str]:
    """List the names of all lines of the project, sorted."""
    folder = folder or load_settings().root / "lines"
    return sorted(path.stem for path in folder.glob("*.yaml"))
