"""The reconciler's schedule: Prefect's own scheduler creates the runs of a deployment.

With SQLAlchemy 2.1 Prefect 3.8.8 accepts a schedule, shows it as active, and never creates a run of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

SCHEDULED = """
import asyncio
from prefect.server import models, schemas
from prefect.server.database import provide_database_interface

async def main():
    db = provide_database_interface()
    await db.create_db()
    async with db.session_context(begin_transaction=True) as session:
        flow = await models.flows.create_flow(session=session, flow=schemas.core.Flow(name="promote"))
        schedule = schemas.core.DeploymentSchedule(
            schedule=schemas.schedules.CronSchedule(cron="*/10 * * * *", timezone="UTC"), active=True
        )
        deployment = await models.deployments.create_deployment(
            session=session,
            deployment=schemas.core.Deployment(name="toy", flow_id=flow.id, schedules=[schedule]),
        )
    async with db.session_context(begin_transaction=True) as session:
        made = await models.deployments.schedule_runs(session, deployment.id, min_runs=3, auto_scheduled=True)
        print("made", len(set(made)))

asyncio.run(main())
"""


@pytest.mark.timeout(240)
def test_prefect_creates_the_runs_of_a_schedule(tmp_path: Path) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    variables = {"PREFECT_HOME": str(tmp_path), "PREFECT_API_DATABASE_CONNECTION_URL": database}
    done = subprocess.run(
        [sys.executable, "-c", SCHEDULED], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert "made " in done.stdout and int(done.stdout.split()[-1]) >= 3, done.stderr[-2000:]
