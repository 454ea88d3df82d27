"""Every way to fail that a user can meet, each with a name, an exit status and a next action.

The class name is the stable code: the command line prints it, Prefect shows it in the state message
and MLflow keeps it as a tag, so that a search for the code finds all three.
"""

from __future__ import annotations


class WeighbridgeError(Exception):
    """A failure with a name, told so that the reader knows what to do next.

    Args:
        what: what is wrong, in one sentence, naming the thing that is wrong.
        next_step: what the reader can do about it, in one sentence.
        where: the file, line, field, host or version concerned, where there is one.
    """

    exit_status = 1

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
        """The same for `--json`."""
        return {"error": self.code, "what": self.what, "where": self.where, "next": self.next_step}


# --- lines and settings ---------------------------------------------------------------------


class LineUnknown(WeighbridgeError):
    """No file `lines/<name>.yaml` of that name."""

    exit_status = 2


class LineInvalid(WeighbridgeError):
    """A line's YAML does not parse or does not fit its schema."""

    exit_status = 2


class SettingsInvalid(WeighbridgeError):
    """A `WEIGHBRIDGE_*` variable has a value that cannot be used."""

    exit_status = 2


class PluginInvalid(WeighbridgeError):
    """An installed plug-in cannot be loaded, or its name is taken; its distribution is named."""

    exit_status = 2


# --- the local stack ------------------------------------------------------------------------


class StackDown(WeighbridgeError):
    """A command needs the stack, and it does not answer."""

    exit_status = 3


class StackFailed(WeighbridgeError):
    """A service of the stack did not become healthy."""

    exit_status = 3


class PortTaken(WeighbridgeError):
    """A port that the stack wants belongs to somebody else."""

    exit_status = 3


# --- source ---------------------------------------------------------------------------------


class SourceUnreachable(WeighbridgeError):
    """The Hub did not answer, or not usefully."""

    exit_status = 4


class SourceUnknown(WeighbridgeError):
    """No such repository or revision on the Hub, or no right to see it."""

    exit_status = 4


class SourceRefused(WeighbridgeError):
    """The line's admission rules refuse the release; every reason is named."""

    exit_status = 5


class SourceDamaged(WeighbridgeError):
    """A downloaded file is not what the Hub said it is."""

    exit_status = 4


class SourceStalled(WeighbridgeError):
    """The Hub accepts connections and then sends nothing, again and again."""

    exit_status = 4


class DiskFull(WeighbridgeError):
    """There is not enough free disk for what comes next."""

    exit_status = 6


# --- fit and quantize -----------------------------------------------------------------------


class DoesNotFit(WeighbridgeError):
    """No scheme of the line fits any of its target GPUs."""

    exit_status = 7


class GpuUnknown(WeighbridgeError):
    """A line names a GPU that `gpus.yaml` does not list."""

    exit_status = 2


class GpuFileInvalid(WeighbridgeError):
    """Your own file of GPUs is not one."""

    exit_status = 2


class FitOptionUnknown(WeighbridgeError):
    """An option of the planner has a value that nobody knows."""

    exit_status = 2


class ArchitectureUnknown(WeighbridgeError):
    """The memory model lacks what it must know of a model's architecture."""

    exit_status = 5


class SchemeUnknown(WeighbridgeError):
    """A line names a quantization scheme that does not exist."""

    exit_status = 2


class PricesInvalid(WeighbridgeError):
    """A price list has an entry that cannot be used, or lacks one that was asked for."""

    exit_status = 2


class OptionInvalid(WeighbridgeError):
    """An option on the command line cannot be used as it was given."""

    exit_status = 2


class QuantizationFailed(WeighbridgeError):
    """The quantizing process ended without an artifact."""

    exit_status = 8


class CalibrationInvalid(WeighbridgeError):
    """The text that a calibrated quantization watches the model on cannot be used."""

    exit_status = 2


class QuantizationInterrupted(QuantizationFailed):
    """The quantizing process was killed; files that it had finished are kept for the next run."""

    exit_status = 8


class MemoryShort(WeighbridgeError):
    """A step would need more memory than this machine can give it."""

    exit_status = 8


class QuantizationUncovered(WeighbridgeError):
    """The written weights are not those that were planned."""

    exit_status = 8


class ConverterMissing(WeighbridgeError):
    """llama.cpp's converter, which writes GGUF, is not installed where it is looked for."""

    exit_status = 8


# --- evaluate -------------------------------------------------------------------------------


class SuiteUnknown(WeighbridgeError):
    """A line names a suite that does not exist."""

    exit_status = 2


class SuiteInvalid(WeighbridgeError):
    """A suite's file cannot be used."""

    exit_status = 2


class SuiteExists(WeighbridgeError):
    """A suite's file is there already, and nobody said that it may be replaced."""

    exit_status = 2


class ImportRefused(WeighbridgeError):
    """A promptfoo configuration that cannot be read, or that reaches outside its own folder."""

    exit_status = 2


class ImportIncomplete(WeighbridgeError):
    """Something of a promptfoo configuration cannot be carried over, and nothing was to be left behind."""

    exit_status = 23


class SuiteFlawed(WeighbridgeError):
    """`suite check` found what makes a suite useless or its verdict wrong."""

    exit_status = 24


class ScoringFailed(WeighbridgeError):
    """A suite could not be scored to its end; no verdict was drawn from the part."""

    exit_status = 9


class ModelUnreadable(WeighbridgeError):
    """A model named on the command line is not one, or its files cannot be read."""

    exit_status = 2


class EndpointRefused(WeighbridgeError):
    """An endpoint does not answer, or not as an OpenAI-compatible one does."""

    exit_status = 9


class SuiteNeedsMore(WeighbridgeError):
    """A suite cannot be scored on what was named: prompts need an endpoint, likelihoods need log-probabilities."""

    exit_status = 2


class PairsInvalid(WeighbridgeError):
    """A file of paired scores cannot be read, or a line of it is not a pair of scores."""

    exit_status = 2


class VerdictRegression(WeighbridgeError):
    """The candidate is worse than production by more than the line's margin."""

    exit_status = 20


class VerdictInconclusive(WeighbridgeError):
    """The evidence does not suffice to call the candidate no worse."""

    exit_status = 21


class VerdictInvalid(WeighbridgeError):
    """The two sets of scores cannot be compared."""

    exit_status = 22


# --- registry -------------------------------------------------------------------------------


class ArtifactMissing(WeighbridgeError):
    """The store does not hold an artifact that something refers to."""

    exit_status = 10


class ArtifactDamaged(WeighbridgeError):
    """An artifact's files are no longer those of its manifest."""

    exit_status = 10


class ArtifactUnsigned(WeighbridgeError):
    """An artifact's manifest carries no signature of this installation's key."""

    exit_status = 10


class SigningKeyUnusable(WeighbridgeError):
    """The key to sign or to verify manifests with is missing, or is none."""

    exit_status = 2


class StoreUnreachable(WeighbridgeError):
    """The store at WEIGHBRIDGE_STORE_URL did not answer, or refuses us."""

    exit_status = 10


class RegistryFailed(WeighbridgeError):
    """MLflow answers, but with an error."""

    exit_status = 11


class RegistryDenied(RegistryFailed):
    """MLflow does not know who asks, or does not let him do this."""

    exit_status = 11


class RolesInvalid(WeighbridgeError):
    """A file of roles is not one, or gives somebody what must be apart."""

    exit_status = 2


class PasswordUnusable(WeighbridgeError):
    """A password is missing, too short, or lies where others can read it."""

    exit_status = 2


class VersionUnknown(WeighbridgeError):
    """The registry has no such model version."""

    exit_status = 11


class DeliveryRefused(WeighbridgeError):
    """What says that it is MLflow's webhook cannot be believed."""

    exit_status = 11


class ApprovalRefused(WeighbridgeError):
    """What was approved does not pass the checks, and serves nobody."""

    exit_status = 12


# --- serve ----------------------------------------------------------------------------------


class EngineUnknown(WeighbridgeError):
    """A line names an engine that does not exist."""

    exit_status = 2


class EngineFailed(WeighbridgeError):
    """An engine did not start, or answered its first real request with an error or with nothing."""

    exit_status = 13


class EngineDiverges(WeighbridgeError):
    """An engine answers, and not as its artifact does: it takes no traffic."""

    exit_status = 13


class NoRoomBeside(WeighbridgeError):
    """An engine would have no memory beside what runs already."""

    exit_status = 13


class GatewayFailed(WeighbridgeError):
    """The gateway did not take a configuration in time."""

    exit_status = 14


class RolloutBusy(WeighbridgeError):
    """Another process is moving this line's traffic at the moment."""

    exit_status = 15


class RolloutAborted(WeighbridgeError):
    """A rollout step was judged worse than production; traffic is back where it was."""

    exit_status = 16


class NothingToRollBack(WeighbridgeError):
    """The line has no earlier version to go back to."""

    exit_status = 17


class AuditBroken(WeighbridgeError):
    """The audit log is not what was written: an entry was edited, removed, added or moved."""

    exit_status = 10


class BackupFailed(WeighbridgeError):
    """A backup could not be made, or not be brought back; nothing was replaced."""

    exit_status = 10


class BackupDamaged(WeighbridgeError):
    """A backup is not what was written."""

    exit_status = 10


# --- watch ----------------------------------------------------------------------------------


class LedgerDamaged(WeighbridgeError):
    """What the watch wrote down of a line cannot be read."""

    exit_status = 10


class WatchBusy(WeighbridgeError):
    """Another watch holds the line."""

    exit_status = 15


class ReleaseNotStarted(WeighbridgeError):
    """Prefect answers, but does not take the run that the watch, a webhook or a refused approval asks for."""

    exit_status = 18
