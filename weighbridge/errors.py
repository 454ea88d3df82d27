"""Every failure that a user can meet: its name, its exit status and what it means. The one reference of all of them.

The class name is the stable code. The command line prints it, Prefect shows it in the state message and MLflow keeps it
as a tag, so a search for the code finds all three.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self


class ExitStatus(IntEnum):
    """Exit statuses of the command line, each with the kind of failure that it stands for."""

    meaning: str

    def __new__(cls, status: int, meaning: str) -> Self:
        member = int.__new__(cls, status)
        member._value_ = status
        member.meaning = meaning
        return member

    OK = 0, "success"
    FAILED = 1, "a fault that has no name yet"
    INPUT = 2, "something you wrote: a file, a setting, an option"
    STACK = 3, "the local stack"
    HUB = 4, "the Hub or another source, or the way there"
    RELEASE = 5, "the release itself"
    DISK = 6, "disk space"
    FIT = 7, "no scheme fits the GPUs"
    QUANTIZE = 8, "quantization"
    SCORING = 9, "scoring, or an endpoint that cannot be scored"
    STORE = 10, "the store, the watch's ledger, the audit log, backups"
    REGISTRY = 11, "the registry"
    APPROVAL = 12, "an approval"
    ENGINE = 13, "an engine"
    GATEWAY = 14, "the gateway"
    BUSY = 15, "another process holds the line"
    ROLLOUT = 16, "a rollout was aborted; traffic is back where it was"
    ROLLBACK = 17, "nothing to roll back to"
    PREFECT = 18, "Prefect refused to start a run"
    REGRESSION = 20, "no candidate passed: regression"
    INCONCLUSIVE = 21, "no candidate passed: inconclusive"
    INVALID = 22, "no candidate passed: the scores cannot be compared"
    IMPORT = 23, "an import that is empty, or with --strict incomplete"
    SUITE = 24, "`suite check` found flaws"
    INTERRUPTED = 130, "Ctrl-C, as shells have it; also a flow in this process that SIGTERM or a closed terminal ended"


class WeighbridgeError(Exception):
    """A failure with a name, and with the reader's next step.

    Args:
        what: What is wrong, in one sentence that names the thing concerned.
        next_step: What the reader can do about it, in one sentence.
        where: File, line, field, host or version concerned, if there is one.
    """

    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED

    def __init__(self, what: str, next_step: str, where: str = "") -> None:
        # All three go to args, so that the error survives pickling between processes.
        super().__init__(what, next_step, where)
        self.what, self.next_step, self.where = what, next_step, where

    @property
    def code(self) -> str:
        """The stable name of this kind of failure."""
        return type(self).__name__

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        return f"{self.code}: {self.what}{place} Next: {self.next_step}"

    def as_dict(self) -> dict[str, str]:
        """The failure as it is printed with `--json`."""
        return {"error": self.code, "what": self.what, "where": self.where, "next": self.next_step}


# --- lines, settings and plug-ins --------------------------------------------------------


class LineUnknown(WeighbridgeError):
    """There is no file `lines/<name>.yaml` of that name."""

    exit_status = ExitStatus.INPUT


class LineExists(WeighbridgeError):
    """A line of that name is there already; nothing was written."""

    exit_status = ExitStatus.INPUT


class LineInvalid(WeighbridgeError):
    """The YAML of a line cannot be parsed or does not fit its schema."""

    exit_status = ExitStatus.INPUT


class DocumentInvalid(WeighbridgeError):
    """A YAML, JSON or text file cannot be read, is no such file, or is larger or deeper than any real one."""

    exit_status = ExitStatus.INPUT
    line: int | None = None
    column: int | None = None
    """Of the fault, if known; `where` names both too."""


class SettingsInvalid(WeighbridgeError):
    """A `WEIGHBRIDGE_*` variable has a value that cannot be used."""

    exit_status = ExitStatus.INPUT


class OptionInvalid(WeighbridgeError):
    """An option on the command line cannot be used as it was given."""

    exit_status = ExitStatus.INPUT


class UsageInvalid(WeighbridgeError):
    """A command was typed with an unknown option, without an argument, or with a value of another kind."""

    exit_status = ExitStatus.INPUT


class FileUnusable(WeighbridgeError):
    """A file or folder cannot be read or written, or holds something else than it should."""

    exit_status = ExitStatus.INPUT


class InstallationBroken(WeighbridgeError):
    """A package that Weighbridge is made of is missing or cannot be loaded."""

    exit_status = ExitStatus.INPUT


class RequestFailed(WeighbridgeError):
    """A request over the network failed, and no other failure of this list says more."""

    exit_status = ExitStatus.STACK


class Interrupted(WeighbridgeError):
    """Ctrl-C, or a signal that means the same."""

    exit_status = ExitStatus.INTERRUPTED


class Unexpected(WeighbridgeError):
    """A fault that has no name yet: in Weighbridge, or in a library."""

    exit_status = ExitStatus.FAILED


class PluginInvalid(WeighbridgeError):
    """An engine, scheme or assertion cannot be loaded, lacks what it must state, or has a taken name."""

    exit_status = ExitStatus.INPUT


# --- the local stack ---------------------------------------------------------------------


class StackDown(WeighbridgeError):
    """A command needs the stack, and a service of it does not answer."""

    exit_status = ExitStatus.STACK


class StackFailed(WeighbridgeError):
    """A service of the stack did not become healthy, or its answer was lost."""

    exit_status = ExitStatus.STACK


class HomeUnsafe(WeighbridgeError):
    """The home, or something in it, belongs to another user, or others could put another in its place."""

    exit_status = ExitStatus.STACK


class HomeNotYours(HomeUnsafe):
    """The home belongs to another user of the machine, or another user runs its stack."""

    exit_status = ExitStatus.STACK


class HomeUnusable(HomeUnsafe):
    """The home is no folder, cannot be made, or cannot be read and written by this user."""

    exit_status = ExitStatus.STACK


class ServiceUnknown(WeighbridgeError):
    """The stack has no service, engine or log of that name."""

    exit_status = ExitStatus.INPUT


class RestartRefused(WeighbridgeError):
    """A restart would cut requests or runs, and nobody said that it may."""

    exit_status = ExitStatus.STACK


class PortTaken(WeighbridgeError):
    """Another process listens on a port that the stack needs."""

    exit_status = ExitStatus.STACK


class NotificationFailed(WeighbridgeError):
    """`notify test` sent a notification that its service did not take."""

    exit_status = ExitStatus.STACK


# --- source ------------------------------------------------------------------------------


class SourceInvalid(WeighbridgeError):
    """The address of a source cannot be used as it was written; the nearest right form is named."""

    exit_status = ExitStatus.INPUT


class SourceChanged(WeighbridgeError):
    """A file of a folder or bucket changed while it was read or copied; nothing of it is adopted."""

    exit_status = ExitStatus.HUB


class SourceUnreachable(WeighbridgeError):
    """The Hub or another source did not answer, or its answer cannot be used."""

    exit_status = ExitStatus.HUB


class SourceUnknown(WeighbridgeError):
    """There is no such repository, folder, bucket or revision, or the account may not see it."""

    exit_status = ExitStatus.HUB


class SourceRefused(WeighbridgeError):
    """The line's admission rules refuse the release; every reason is named."""

    exit_status = ExitStatus.RELEASE


class SourceDamaged(WeighbridgeError):
    """A downloaded file is not what its source announced, or no file of its format."""

    exit_status = ExitStatus.HUB


class SourceStalled(WeighbridgeError):
    """The Hub accepts connections and then sends nothing, several times in a row."""

    exit_status = ExitStatus.HUB


class DiskFull(WeighbridgeError):
    """There is not enough free disk for the next step."""

    exit_status = ExitStatus.DISK


# --- fit and quantize --------------------------------------------------------------------


class DoesNotFit(WeighbridgeError):
    """No scheme of the line fits any of its target GPUs."""

    exit_status = ExitStatus.FIT


class GpuUnknown(WeighbridgeError):
    """A line names a GPU that `gpus.yaml` does not list."""

    exit_status = ExitStatus.INPUT


class GpuFileInvalid(WeighbridgeError):
    """Your own list of GPUs cannot be used."""

    exit_status = ExitStatus.INPUT


class FitOptionUnknown(WeighbridgeError):
    """An option of the planner has an unknown value."""

    exit_status = ExitStatus.INPUT


class PricesInvalid(WeighbridgeError):
    """A price list has an entry that cannot be used, or lacks a price that was asked for."""

    exit_status = ExitStatus.INPUT


class ArchitectureUnknown(WeighbridgeError):
    """The memory model lacks a fact that it needs about the model's architecture."""

    exit_status = ExitStatus.RELEASE


class SchemeUnknown(WeighbridgeError):
    """A line names a quantization scheme that does not exist."""

    exit_status = ExitStatus.INPUT


class CalibrationInvalid(WeighbridgeError):
    """The calibration text of a quantization cannot be used."""

    exit_status = ExitStatus.INPUT


class QuantizationFailed(WeighbridgeError):
    """The quantizing process ended without an artifact."""

    exit_status = ExitStatus.QUANTIZE


class QuantizationInterrupted(QuantizationFailed):
    """The quantizing process was killed; its finished files are kept for the next run."""

    exit_status = ExitStatus.QUANTIZE


class QuantizationUncovered(WeighbridgeError):
    """The written weights differ from the planned ones."""

    exit_status = ExitStatus.QUANTIZE


class MemoryShort(WeighbridgeError):
    """A step would need more memory than this machine can give it."""

    exit_status = ExitStatus.QUANTIZE


class ConverterMissing(WeighbridgeError):
    """llama.cpp's converter, which writes GGUF, is not installed where it is expected."""

    exit_status = ExitStatus.QUANTIZE


# --- evaluate ----------------------------------------------------------------------------


class SuiteUnknown(WeighbridgeError):
    """A line names a suite that does not exist."""

    exit_status = ExitStatus.INPUT


class SuiteInvalid(WeighbridgeError):
    """A suite's file cannot be used."""

    exit_status = ExitStatus.INPUT


class SuiteExists(WeighbridgeError):
    """A suite's file exists already, and replacing it was not allowed."""

    exit_status = ExitStatus.INPUT


class SuiteFlawed(WeighbridgeError):
    """`suite check` found a flaw that makes a suite useless or its verdict wrong."""

    exit_status = ExitStatus.SUITE


class SuiteNeedsMore(WeighbridgeError):
    """A suite cannot be scored on this target: prompts need an endpoint, likelihoods need log-probabilities."""

    exit_status = ExitStatus.INPUT


class ImportRefused(WeighbridgeError):
    """A promptfoo configuration cannot be read, or reaches outside its own folder."""

    exit_status = ExitStatus.INPUT


class ImportIncomplete(WeighbridgeError):
    """No test of a promptfoo configuration can be imported; or, with `--strict`, a part of it cannot."""

    exit_status = ExitStatus.IMPORT


class ScoringFailed(WeighbridgeError):
    """A suite could not be scored to its end; no verdict was drawn from a part."""

    exit_status = ExitStatus.SCORING


class EndpointRefused(WeighbridgeError):
    """An endpoint does not answer, or not as an OpenAI-compatible one does."""

    exit_status = ExitStatus.SCORING


class ModelUnreadable(WeighbridgeError):
    """A model named on the command line is not a model, or its files cannot be read."""

    exit_status = ExitStatus.INPUT


class PairsInvalid(WeighbridgeError):
    """A file of paired scores cannot be read, or one of its lines is not a pair of scores."""

    exit_status = ExitStatus.INPUT


class VerdictRegression(WeighbridgeError):
    """The candidate is worse than production by more than the line's margin."""

    exit_status = ExitStatus.REGRESSION


class VerdictInconclusive(WeighbridgeError):
    """The evidence does not suffice to call the candidate no worse than production."""

    exit_status = ExitStatus.INCONCLUSIVE


class VerdictInvalid(WeighbridgeError):
    """The two sets of scores cannot be compared."""

    exit_status = ExitStatus.INVALID


# --- registry ----------------------------------------------------------------------------


class ArtifactMissing(WeighbridgeError):
    """The store does not hold an artifact that something refers to."""

    exit_status = ExitStatus.STORE


class ArtifactDamaged(WeighbridgeError):
    """An artifact's files differ from its manifest."""

    exit_status = ExitStatus.STORE


class ProvenanceBroken(ArtifactDamaged):
    """An artifact's manifest names an input that is not what the store has."""


class ArtifactUnsigned(WeighbridgeError):
    """An artifact's manifest carries no signature by this installation's key."""

    exit_status = ExitStatus.STORE


class SigningKeyUnusable(WeighbridgeError):
    """The key for signing or verifying manifests is missing or cannot be used."""

    exit_status = ExitStatus.INPUT


class SigningKeyMissing(SigningKeyUnusable):
    """The private key is gone from an installation that has signed before; no new pair is made silently."""

    exit_status = ExitStatus.INPUT


class SigningKeyChanged(SigningKeyUnusable):
    """The private key is another one than the installation signs with, or was replaced meanwhile."""

    exit_status = ExitStatus.INPUT


class SignatureRefused(WeighbridgeError):
    """A signed statement is signed by no key that counts for it, or is about something else."""

    exit_status = ExitStatus.STORE


class StoreUnreachable(WeighbridgeError):
    """The store at WEIGHBRIDGE_STORE_URL did not answer, or refuses access."""

    exit_status = ExitStatus.STORE


class RegistryFailed(WeighbridgeError):
    """MLflow answers with an error."""

    exit_status = ExitStatus.REGISTRY


class RegistryDenied(RegistryFailed):
    """MLflow does not know the account, or refuses it this operation."""

    exit_status = ExitStatus.REGISTRY


class RolesInvalid(WeighbridgeError):
    """A file of roles cannot be read, or gives one person roles that must be separate."""

    exit_status = ExitStatus.INPUT


class PasswordUnusable(WeighbridgeError):
    """A password is missing, too short, or readable by others."""

    exit_status = ExitStatus.INPUT


class VersionUnknown(WeighbridgeError):
    """The registry has no such model version."""

    exit_status = ExitStatus.REGISTRY


class DeliveryRefused(WeighbridgeError):
    """A delivery that claims to come from MLflow's webhook cannot be trusted."""

    exit_status = ExitStatus.REGISTRY


class ApprovalRefused(WeighbridgeError):
    """An approved version fails a check, and does not serve."""

    exit_status = ExitStatus.APPROVAL


class ReasonMissing(WeighbridgeError):
    """An approval was asked for without a reason, where nobody can be asked for one."""

    exit_status = ExitStatus.INPUT


class VerdictUnsigned(ApprovalRefused):
    """A candidate's verdict carries no signature of the pipeline."""

    exit_status = ExitStatus.APPROVAL


class VerdictForged(ApprovalRefused):
    """A candidate's tags say something else than the verdict that the pipeline signed."""

    exit_status = ExitStatus.APPROVAL


class AuditBroken(WeighbridgeError):
    """An entry of the audit log was edited, removed, added or moved."""

    exit_status = ExitStatus.STORE


class BackupFailed(WeighbridgeError):
    """A backup could not be made or restored; nothing was replaced."""

    exit_status = ExitStatus.STORE


class OutboxDamaged(WeighbridgeError):
    """A release that waits to be recorded in MLflow cannot be read."""

    exit_status = ExitStatus.STORE


class WitnessUnreachable(WeighbridgeError):
    """A place where the audit log's head is noted does not answer, or refuses."""

    exit_status = ExitStatus.STORE


class BackupUnsigned(WeighbridgeError):
    """A backup is signed by no key of this installation."""

    exit_status = ExitStatus.STORE


class BackupOutdated(WeighbridgeError):
    """A backup lacks entries that this installation's audit log has; a restore would take them back."""

    exit_status = ExitStatus.STORE


class BackupDamaged(WeighbridgeError):
    """A backup differs from what was written."""

    exit_status = ExitStatus.STORE


class PassphraseUnusable(WeighbridgeError):
    """A passphrase for a backup's secrets is missing, too short, or readable by others."""

    exit_status = ExitStatus.INPUT


class PassphraseWrong(WeighbridgeError):
    """A passphrase does not open the secrets in a backup."""

    exit_status = ExitStatus.STORE


class RestoreUnfinished(WeighbridgeError):
    """A restore was killed while it replaced things, and must be run again before the stack starts."""

    exit_status = ExitStatus.STORE


# --- serve -------------------------------------------------------------------------------


class EngineUnknown(WeighbridgeError):
    """A line names an engine that does not exist."""

    exit_status = ExitStatus.INPUT


class EngineFailed(WeighbridgeError):
    """An engine did not start, or answered its first real request with an error or with nothing."""

    exit_status = ExitStatus.ENGINE


class EngineDiverges(WeighbridgeError):
    """An engine computes something else than its artifact, and receives no traffic."""

    exit_status = ExitStatus.ENGINE


class NoRoomBeside(WeighbridgeError):
    """There is not enough memory for an engine beside the running ones."""

    exit_status = ExitStatus.ENGINE


class GatewayFailed(WeighbridgeError):
    """The gateway did not accept a configuration in time."""

    exit_status = ExitStatus.GATEWAY


class KeyNameInvalid(WeighbridgeError):
    """A client's key is named that is not there, that is there already, or that cannot be called so."""

    exit_status = ExitStatus.INPUT


class RolloutBusy(WeighbridgeError):
    """Another process is moving this line's traffic."""

    exit_status = ExitStatus.BUSY


class TrafficTakenOver(WeighbridgeError):
    """Another process took over a line's traffic while this one was frozen; this one moves nothing any more."""

    exit_status = ExitStatus.BUSY


class RolloutAborted(WeighbridgeError):
    """The new version was judged worse than production; traffic is back where it was."""

    exit_status = ExitStatus.ROLLOUT


class RolloutUndecided(WeighbridgeError):
    """The new version looks worse than production without evidence; a person decides, and traffic stays as it is."""

    exit_status = ExitStatus.ROLLOUT


class NothingToRollBack(WeighbridgeError):
    """The line has no earlier version to return to."""

    exit_status = ExitStatus.ROLLBACK


# --- watch -------------------------------------------------------------------------------


class LedgerDamaged(WeighbridgeError):
    """The watch's ledger of a line cannot be read."""

    exit_status = ExitStatus.STORE


class WatchBusy(WeighbridgeError):
    """Another watch holds the line."""

    exit_status = ExitStatus.BUSY


class ReleaseNotStarted(WeighbridgeError):
    """Prefect answers, but refuses to start the run that the watch, a webhook or an approval asks for."""

    exit_status = ExitStatus.PREFECT


class RunRefused(WeighbridgeError):
    """The worker does not run what Prefect asks for: no file has such a deployment, or it says otherwise."""

    exit_status = ExitStatus.PREFECT


class RunFrozen(WeighbridgeError):
    """A run's process slept, was stopped, or was killed with its machine; Prefect gave up on it."""

    exit_status = ExitStatus.PREFECT


class ResultRefused(WeighbridgeError):
    """A run's result, as Prefect describes it, is not one that this installation stored."""

    exit_status = ExitStatus.PREFECT


def all_errors() -> list[type[WeighbridgeError]]:
    """List every named failure in the order of this file, for the reference table."""
    return [
        error
        for error in globals().values()
        if isinstance(error, type) and issubclass(error, WeighbridgeError) and error is not WeighbridgeError
    ]
