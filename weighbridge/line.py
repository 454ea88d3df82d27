"""A line: one model that you serve, with what to watch, what it must pass and how it rolls out.

One YAML file in `lines/` each; the file's name is the line's name. What a field means stands beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from weighbridge.errors import LineInvalid, LineUnknown
from weighbridge.files import read_yaml
from weighbridge.settings import load_settings

LINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
StickyBy = Literal["none", "conversation", "key"]
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Admission(_Part):
    """What a release must be before a byte of its weights is downloaded."""

    licences: list[str] = Field(description="SPDX ids, as the model card names them; none means none is allowed")
    architectures: list[str] = Field([], description="class names in config.json; empty: any causal LM known")
    max_download_gib: float = Field(2000, gt=0, description="largest release, GiB of its files")


class Watch(_Part):
    """What is looked for at the source, and what happens when something is there."""

    on_new: Literal["release", "notify"] = Field(
        "release", description="an admissible new commit: start a release, whose candidates await approval; or only say"
    )
    on_successor: Literal["notify", "release"] = Field(
        "notify", description="an admissible successor: only say so, or start a release of it"
    )
    successors: list[str] = Field(
        [], description="globs over repositories' names, as Llama-*-8B-Instruct; none means no search"
    )
    author: str = Field("", description="whose repositories are searched; the source's owner by default")
    architectures: list[str] = Field([], description="of a successor; empty: those of the admission rules")
    parameters_billion: tuple[float, float] | None = Field(None, description="fewest and most of a successor")

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
    """Where the line is to run, and how much it must hold at once."""

    gpus: list[str] = Field(
        min_length=1, description="names in tasks/fit/hardware/gpus.yaml; `host` is this machine's memory"
    )
    context: int = Field(4096, ge=16, description="longest prompt plus answer, tokens")
    concurrency: int = Field(8, ge=1, description="requests at once, each of full context")


class SchemeChoice(_Part):
    """How one scheme is made, where the pipeline's own choice is not wanted: a recipe."""

    methods: list[str] = Field(
        [], description="files in tasks/quantize/methods/, from the cheapest up; empty: the scheme's own"
    )
    group_size: int | None = Field(None, ge=16, description="input columns that share a scale")
    ignore: list[str] = Field([], description="globs over layers' names that stay as published, beside the usual ones")


CHOOSE_NOTHING = SchemeChoice()


class Quantize(_Part):
    """How candidates are quantized."""

    minutes: float = Field(
        240, gt=0, description="a costlier method is begun only while the cheaper ones took less than this together"
    )
    calibration: str | None = Field(
        None, description="file of text or messages for methods that calibrate; the project's own by default"
    )
    schemes: dict[str, SchemeChoice] = Field({}, description="by the scheme's name")

    def choice(self, scheme: str) -> SchemeChoice:
        """What is chosen for a scheme; nothing by default."""
        return self.schemes.get(scheme, SchemeChoice())


class SuiteUse(_Part):
    """One suite with the margin that its verdict is drawn at."""

    name: str = Field(description="general/<task> or regression/<file>", pattern=r"^(general|regression)/[\w-]+$")
    margin: float = Field(0.02, gt=0, lt=1, description="how much worse still counts as no worse, of a scale of 1")


class Engine(_Part):
    """What serves the line, and with which flags."""

    name: str = Field("transformers", description="a file in tasks/engines/")
    flags: dict[str, str | int | float | bool] = Field(
        {}, description="passed on as --name value; part of what is weighed"
    )
    parity: Literal["off", "report", "refuse"] = Field(
        "off", description="an engine that computes something else than its artifact says: do not look, tell, refuse"
    )


class ShadowStep(_Part):
    """A stay before the first step: the new version is asked too, and what it says is dropped."""

    per_cent: int = Field(10, ge=1, le=100, description="of the line's requests, asked a second time")
    hold_seconds: float = Field(60, ge=0, description="shortest stay; the longest is the rollout's")


class Rollout(_Part):
    """How traffic moves to a new version."""

    shadow: ShadowStep | None = Field(None, description="ask the new version beside the old one before it answers")
    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field([1, 10, 50, 100], description="per cent of requests")
    hold_seconds: float = Field(60, ge=0, description="shortest stay at a step")
    min_requests: int = Field(0, ge=0, description="requests the new version must have answered before the next step")
    max_hold_seconds: float = Field(600, gt=0, description="longest stay at a step, for what is not decided yet")
    max_error_share: float = Field(
        0.01, ge=0, le=1, description="share of failed requests that is borne; above it, production must do as badly"
    )
    max_empty_share: float = Field(0.02, ge=0, le=1, description="the same of empty answers")
    max_latency_ratio: float = Field(
        1.5, gt=1, description="first byte, time per token, p50, p95 and p99 of the whole answer, over production's"
    )
    max_length_ratio: float = Field(
        2.0, gt=1, description="median length of answers over production's, and its inverse"
    )
    when_errors_unsure: Literal["go_on", "stop"] = Field(
        "stop", description="errors or empty answers look too many at the longest stay, and are not shown to be"
    )
    when_speed_unsure: Literal["go_on", "stop"] = Field(
        "go_on", description="the same of latency and length, which a cold cache or a busy hour can explain"
    )
    when_no_room: Literal["refuse", "swap"] = Field(
        "refuse", description="old and new do not fit side by side: refuse, or stop the old one first (a gap meanwhile)"
    )
    hold_requests_seconds: float = Field(
        30, ge=0, le=600, description="how long a request waits in that gap before it is answered 503"
    )
    sticky_by: StickyBy = Field("none", description="what stays with one version while the weights stay")
    drain_seconds: float = Field(120, ge=0, description="longest wait for the last active request")
    keep_warm_minutes: float = Field(60, ge=0, description="how long an engine out of rotation stays up")

    @field_validator("steps")
    @classmethod
    def _rising_to_100(cls, steps: list[int]) -> list[int]:
        if steps != sorted(set(steps)) or not steps or steps[-1] != 100:
            raise ValueError("must rise and end at 100")
        return steps


class Approval(_Part):
    """What an approval must be beside a pass (docs/how-to/approve.md)."""

    max_age_days: float = Field(
        14, gt=0, description="an approval that nothing was done about for longer serves nobody any more"
    )
    overriders: list[str] = Field([], description="who may approve what was weighed and did not pass; none: nobody")


class Bounds(_Part):
    """How far a candidate may move beside accuracy; each is decided by its interval, and `null` only reports.

    The defaults are for a quantization of the same release, measured on a model of 135 million parameters: its INT8
    passes, plain INT4 does not (docs/evidence/drift.md). Larger models move less.
    """

    max_kl_nats: float | None = Field(0.25, gt=0, description="KL divergence on held text, nats a token")
    min_top1_agreement: float | None = Field(
        0.75, gt=0, lt=1, description="share of held tokens at which both think the same next token likeliest"
    )
    max_text_mismatch_share: float | None = Field(
        0.0, ge=0, lt=1, description="share of held texts that tokenizer or chat template turn into other tokens"
    )
    max_flips_share: float | None = Field(
        0.10, gt=0, lt=1, description="share of items right before and wrong now or the reverse, all suites together"
    )
    max_length_ratio: float | None = Field(
        1.5, gt=1, description="typical ratio of answer lengths, and its inverse: answers may not shrink further either"
    )
    max_refusal_rise: float | None = Field(0.05, gt=0, lt=1, description="rise of the share of refusing answers")
    max_language_change_share: float | None = Field(
        0.05, gt=0, lt=1, description="share of answers in another language than production's"
    )
    max_degenerate_share: float | None = Field(
        0.05, gt=0, lt=1, description="share of answers that loop, are empty or leak tokens where production's did not"
    )
    max_latency_ratio: float | None = Field(None, gt=1, description="typical ratio of answer times")
    min_throughput_ratio: float | None = Field(None, gt=0, lt=1, description="typical ratio of tokens a second")


class Line(_Part):
    """A model line.

    Raises:
        LineUnknown, LineInvalid: from `load`.
    """

    name: str
    source: str = Field(description="hf://org/model")
    revision: str = Field("main", description="branch or tag that is followed")
    admission: Admission
    schemes: list[str] = Field(min_length=1, description="files in tasks/schemes/: bf16, int8, int4, …")
    target: Target
    quantize: Quantize = Quantize()
    engine: Engine = Engine()
    suites: list[SuiteUse] = Field(min_length=1)
    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided, of each suite's verdict")
    bounds: Bounds = Bounds()
    noise_floor: bool = Field(
        False, description="score production twice, and show the flips between the two beside the verdict"
    )
    approval: Approval = Approval()
    rollout: Rollout = Rollout()
    watch: Watch = Watch()

    @field_validator("source")
    @classmethod
    def _hub(cls, source: str) -> str:
        if not HUB.fullmatch(source):
            raise ValueError("must read hf://org/model")
        return source

    @property
    def repo(self) -> str:
        """`org/model` of the source."""
        match = HUB.fullmatch(self.source)
        assert match
        return match["repo"]

    @property
    def candidates_model(self) -> str:
        """Registered model that the pipeline writes."""
        return f"{self.name}-candidates"

    @classmethod
    def load(cls, name: str, folder: Path | None = None) -> Line:
        """Read a line's file.

        Args:
            name: the line's name, that is its file's name without `.yaml`.
            folder: where the lines are; the project's `lines/` by default.

        Raises:
            LineUnknown: there is no such file.
            LineInvalid: the file is not YAML, or a field is missing, unknown or out of range.
        """
        folder = folder or load_settings().root / "lines"
        path = folder / f"{name}.yaml"
        if not LINE_NAME.fullmatch(name) or not path.is_file():
            known = ", ".join(line_names(folder)) or "none yet"
            raise LineUnknown(
                f"There is no line called {name!r}; known lines: {known}.",
                f"Name one of these, or write {folder.name}/{name}.yaml (docs/how-to/write-a-line.md says how).",
            )
        return cls._parse(name, path)

    @classmethod
    def _parse(cls, name: str, path: Path) -> Line:
        place = f"{path.parent.name}/{path.name}"
        try:
            fields: Any = read_yaml(path)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            at = f"{place}, line {mark.line + 1}, column {mark.column + 1}" if mark else place
            problem = getattr(error, "problem", None) or str(error)
            raise LineInvalid(f"The file is not YAML: {problem}.", "Correct the place named.", where=at) from None
        if not isinstance(fields, dict):
            raise LineInvalid("The file must be a mapping of fields.", "See docs/how-to/write-a-line.md.", where=place)
        try:
            return cls.model_validate({**fields, "name": name})
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in one['loc'])}: {one['msg'][0].lower()}{one['msg'][1:]}"
                for one in error.errors()
            )
            raise LineInvalid(f"{problems}.", "Correct them; docs/reference/line.md lists all.", where=place) from None


def line_names(folder: Path | None = None) -> list[str]:
    """Names of all lines of the project, sorted."""
    folder = folder or load_settings().root / "lines"
    return sorted(path.stem for path in folder.glob("*.yaml"))
