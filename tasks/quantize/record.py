"""The record of a quantization that the store keeps beside an artifact."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, Field

from registry.store import Artifact, Input, Provenance, Store, provenance_of
from tasks.quantize.calibration import short_text_warning
from tasks.quantize.coverage import Coverage
from tasks.quantize.gguf import GgufRecipe
from tasks.quantize.loading.proof import Loading
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.plan.resources import Resources
from weighbridge.line import SchemeChoice


class QuantizationRecord(BaseModel):
    """How an artifact was quantized; kept beside it and not part of its digest."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    recipe: Recipe | GgufRecipe
    coverage: Coverage
    loading: Loading | None = None
    """What came of loading it by transformers; None for GGUF and in older records."""
    versions: dict[str, str]
    seconds: float
    """Wall time of the whole step."""
    cpu_seconds: float
    """Of the quantizing process, imports included."""
    peak_rss_bytes: int
    """Of the quantizing process."""
    calibration_tokens: int = 0
    """Of calibration text that the method used; 0 for methods without calibration."""
    resources: Resources | None = Field(default=None, alias="needs")
    """The estimate before it started; called `needs` in stored records."""

    @property
    def calibration_warning(self) -> str:
        """A warning if the calibration text was too short; empty otherwise."""
        return short_text_warning(self.recipe, self.calibration_tokens) if isinstance(self.recipe, Recipe) else ""

    def provenance(self, weights: Artifact, text_sha256: str, choice: SchemeChoice, invocation: str) -> Provenance:
        """Describe this quantization for the artifact's manifest.

        Args:
            weights: what was quantized, read through `Store.path`.
            text_sha256: of the calibration text; empty for methods without it.
            choice: what the line chose in place of the plan.
            invocation: id of the flow run; empty outside of one.
        """
        texts = [Input(uri="calibration", digest={"sha256": text_sha256})] if text_sha256 else []
        return provenance_of(
            "quantize",
            parameters={
                "scheme": self.recipe.scheme,
                "method": self.recipe.method,
                "choice": choice.model_dump(mode="json", exclude={"methods"}),
                "recipeSha256": hashlib.sha256(self.recipe.model_dump_json().encode()).hexdigest(),
            },
            inputs=[weights.as_input, *texts],
            versions=self.versions,
            invocation=invocation,
        )


def quantization_record(artifact: Artifact, store: Store) -> QuantizationRecord | None:
    """Read the record of an artifact's quantization; None for a release as published."""
    facts = store.facts(artifact)
    return QuantizationRecord.model_validate(facts) if "recipe" in facts else None
