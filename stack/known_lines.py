"""Make a line that is new, or gone, known to the running stack: its models and roles in MLflow, its deployments."""

from __future__ import annotations

from stack.deploy import ReportService, deploy
from weighbridge.health import answers
from weighbridge.line import line_names
from weighbridge.settings import Settings


def make_lines_known(settings: Settings, report: ReportService) -> bool:
    """Do for all lines what `up` does, if the stack is up.

    Returns:
        Whether it is; else nothing was done.

    Raises:
        StackFailed, StackDown, RegistryFailed, RegistryDenied: a server refuses, or does not answer.
    """
    if not answers(f"{settings.prefect_url}/api/health"):
        return False
    if settings.mlflow_auth:
        from registry.access.grants import Granting  # takes MLflow's import

        Granting(settings, line_names(settings.root / "lines")).apply(None, lambda text: report("mlflow", text))
    deploy(settings, report)
    return True
