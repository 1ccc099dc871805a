"""The database's schema: from nothing to the newest, with everything that is in it, and hands off what is newer."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from google.protobuf import json_format
from sqlalchemy import Connection, Engine, inspect, select, text

from controller.store import migrations
from controller.store.databases import open_database
from controller.store.migrations import HEAD, SCHEMA_LEVEL, SchemaTooNew, stamped, upgrade
from controller.store.tables import (
    agents,
    artifacts,
    attempts,
    events,
    jobs,
    log_chunks,
    metadata,
    requests,
    tasks,
    texts,
)
from mediactl.v1 import agent_service_pb2, job_pb2
from presets.reasons import Reason
from tests.fakes.postgres import Postgres
from tests.fakes.running import controller

SCRIPTS = Path(migrations.__file__).parent


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'mediactl.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        with server.database() as empty:
            yield empty


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_database(url).writer_engine()
    yield engine
    engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, Engine]]:
    """A file of SQLite and what writes to it."""
    path = tmp_path / "mediactl.db"
    engine = open_database(f"sqlite:///{path}").writer_engine()
    yield path, engine
    engine.dispose()


def _sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shape(connection: Connection) -> dict[str, Any]:
    """Everything that a database says of its tables."""
    seen = inspect(connection)
    return {
        table: {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(table)],
            "primary key": seen.get_pk_constraint(table),
            "foreign keys": sorted(seen.get_foreign_keys(table), key=str),
            "unique": sorted(seen.get_unique_constraints(table), key=str),
            "indexes": sorted(
                (i["name"], i["column_names"], i["unique"], [str(o) for o in i.get("dialect_options", {}).values()])
                for i in seen.get_indexes(table)
            ),
        }
        for table in seen.get_table_names()
        if table not in ("alembic_version", "sqlite_sequence")
    }


def test_from_nothing_to_what_the_code_expects(engine: Engine) -> None:
    """The migrations make exactly the tables, columns, types, keys and indexes that the code declares."""
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrated = _shape(connection)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
        assert migrated == _shape(connection)


def test_the_newest_migration_is_the_one_the_program_names(engine: Engine) -> None:
    """One line of versions, which ends at HEAD, and needs the level of this program."""
    assert ScriptDirectory(str(SCRIPTS)).get_heads() == [HEAD]
    assert stamped(engine) == (None, 0)
    upgrade(engine)
    assert stamped(engine) == (HEAD, SCHEMA_LEVEL)


def test_upgrading_again_changes_nothing(tmp_path: Path) -> None:
    """The incarnation is drawn once, and differs from database to database."""
    incarnations = set()
    for name in ("one.db", "two.db"):
        path = tmp_path / name
        engine = open_database(f"sqlite:///{path}").writer_engine()
        upgrade(engine)
        before = _digest(path)
        upgrade(engine)
        assert _digest(path) == before
        [(incarnation,)] = _sql(path, "SELECT value FROM meta WHERE key = 'incarnation'")
        incarnations.add(incarnation)
    assert len(incarnations) == 2


def test_controllers_that_start_together_migrate_once(url: str) -> None:
    """One does it, the others find it done."""
    engines = [open_database(url).writer_engine() for _ in range(4)]
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(upgrade, engines))
    assert {stamped(engine) for engine in engines} == {(HEAD, SCHEMA_LEVEL)}
    for engine in engines:
        engine.dispose()


def test_a_database_that_needs_a_newer_program_is_refused_untouched(file: tuple[Path, Engine]) -> None:
    """Not a byte of it changes, and the message says what is needed."""
    path, engine = file
    upgrade(engine)
    _sql(path, "UPDATE meta SET value = value + 1 WHERE key = 'minimum_level'")
    _sql(path, "UPDATE alembic_version SET version_num = '9999'")
    before = _digest(path)
    with pytest.raises(SchemaTooNew, match=f"needs a controller of schema level {SCHEMA_LEVEL + 1}"):
        upgrade(engine)
    assert _digest(path) == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["mediactl.db"]


async def test_a_newer_schema_that_this_program_still_meets_is_used_as_it_is(file: tuple[Path, Engine]) -> None:
    """Rolling back one version works: the database stays at the newer schema and jobs are served."""
    path, engine = file
    upgrade(engine)
    _sql(path, "UPDATE alembic_version SET version_num = '9999'")
    _sql(path, "ALTER TABLE jobs ADD COLUMN of_the_future TEXT")
    async with controller(path.parent) as box:
        assert [job async for job in box.client.list()] == []
    assert _sql(path, "SELECT version_num FROM alembic_version") == [("9999",)]


# From the first schema, with jobs in every state it knew

STATES = ("PENDING", "LEASED", "RUNNING", "PUBLISHING", "FAILED", "COMPLETED", "DEAD", "CANCELLED")
PRESET = 'name = "spoken"\nversion = 1\n# für alle\n'
PROFILES = ('name = "aac"\n', 'name = "opus"\n')
SPEC = job_pb2.JobSpec(
    inputs=[job_pb2.Input(uri="file:///media/ä.wav")], preset="spoken", labels={"team": "news", "say": 'a "b"'}
)
SPEC.params["target_lufs"].number_value = -16
PLAN = job_pb2.Plan(steps=[job_pb2.PlanStep(id="encode", arguments=["-i", "x"])], threads=2)
ARTIFACT = job_pb2.Artifact(name="aac", uri="file:///out/ä.m4a", size_bytes=5_000_000_000, sha256="f" * 64)
ARTIFACT.loudness.gain_db = -1.5
STAGED = agent_service_pb2.StageReport(attempt_id="try4")
STAGED.records.add(artifact=ARTIFACT)


def _first_schema(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO meta (key, value) VALUES ('incarnation', 'kept')"))
        _add(
            connection,
            "agents",
            id="a",
            instance_id="i",
            epoch=3,
            name="box",
            version="0.1.0",
            labels="{}",
            capabilities='{"mediaRoots": ["/media", "/srv"]}',
            draining=False,
            lost=False,
            created_us=1,
            last_seen_us=2,
        )
        for seq, state in enumerate(STATES, start=1):
            _add_job(connection, seq, state)


def _add_job(connection: Connection, seq: int, state: str) -> None:
    key = {"tenant": "default", "job_id": f"job{seq}"}
    failure = {"reason": "FFMPEG_FAILED", "message": "no", "retryable": True, "log_tail": "…"}
    intent = {
        "preset": PRESET,
        "inputs": [{"role": "voice", "uri": "file:///media/ä.wav"}],
        "parameters": {"target_lufs": -16},
        "outputs": [{"profile": p, "overrides": {}, "uri": f"file:///o/{seq}", "name": p} for p in PROFILES[: seq % 3]],
        "overwrite": False,
    }
    # What a newer program of the same schema may have written is no reason to refuse it.
    spec = json_format.MessageToDict(SPEC) | ({"ofTheFuture": 1} if seq == 2 else {})
    _add(
        connection,
        "jobs",
        seq=seq,
        tenant="default",
        id=f"job{seq}",
        kind="media",
        state="PROCESSING" if state in ("LEASED", "RUNNING", "PUBLISHING") else state,
        queue="default",
        preset="spoken_v1",
        preset_digest="d",
        labels=json.dumps(dict(SPEC.labels)),
        spec=json.dumps(spec),
        intent=json.dumps(intent),
        verbose=seq % 2 == 0,
        cancel_requested=state == "CANCELLED",
        attempt_count=1,
        event_count=2,
        failure=json.dumps(failure) if state in ("FAILED", "DEAD") else None,
        created_us=seq,
        started_us=None,
        ended_us=seq if state in ("COMPLETED", "DEAD", "CANCELLED") else None,
    )
    _add(
        connection,
        "tasks",
        seq=seq,
        id=f"job{seq}-1",
        **key,
        kind="transform",
        state=state,
        class_key="c",
        requirements='{"alternatives": []}',
        require="{}",
        paths='["/media/ä.wav"]',
        priority=5,
        max_attempts=seq,
        attempts_used=1,
        attempts_made=2,
        agents_lost=0,
        infrastructure_since_us=None,
        ready_us=seq,
        attempt_id=f"try{seq}",
        redo=json_format.MessageToJson(STAGED, indent=None) if state == "PUBLISHING" else None,
    )
    _add(
        connection,
        "attempts",
        id=f"try{seq}",
        **key,
        task_id=f"job{seq}-1",
        holder="a" if state in ("LEASED", "RUNNING", "PUBLISHING") else "",
        agent_id="a",
        number=1,
        state="running",
        alternative=0,
        cores=2,
        memory_bytes=2**40,
        scratch_bytes=0,
        queue_wait_us=7,
        leased_us=seq,
        plan=json_format.MessageToJson(PLAN) if seq % 2 else None,
        record="{}",
    )
    for sequence in (1, 2):
        _add(
            connection,
            "events",
            cursor=10 * seq + sequence,
            **key,
            sequence=sequence,
            at_us=seq,
            type="submitted",
            job_state="PENDING",
            task_id="",
            attempt_id="",
            agent_id="",
            reason="",
            message="ü",
        )
    chunk = {"attempt_id": f"try{seq}", "stream": "stderr", "sequence": 1, "data": bytes(range(256))}
    _add(connection, "log_chunks", position=seq, **key, **chunk)
    if state == "COMPLETED":
        document = json_format.MessageToJson(ARTIFACT, indent=None)
        told = {"uri": ARTIFACT.uri, "size_bytes": ARTIFACT.size_bytes, "sha256": ARTIFACT.sha256}
        _add(connection, "artifacts", **key, ordinal=0, attempt_id=f"try{seq}", **told, document=document)
    request = {"request_id": f"r{seq}", "digest": "d", "job_ids": f'["job{seq}"]', "created_us": seq}
    _add(connection, "requests", tenant="default", **request)


def _add(connection: Connection, table: str, **row: object) -> None:
    names, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)  # noqa: S608


def test_nothing_of_the_first_schema_is_lost(engine: Engine) -> None:
    """Every row is there again; what changed its form says the same as before."""
    _first_schema(engine)
    with engine.connect() as connection:
        same = {
            name: connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2, 3")).mappings().all()  # noqa: S608
            for name in ("jobs", "tasks", "attempts", "events", "artifacts", "log_chunks", "agents", "requests")
        }
    upgrade(engine)
    with engine.connect() as connection:
        now = {
            table.name: connection.execute(text(f"SELECT * FROM {table.name} ORDER BY 1, 2, 3")).mappings().all()  # noqa: S608
            for table in (jobs, tasks, attempts, events, artifacts, log_chunks, agents, requests)
        }
        kept_texts = {row.digest: row.text for row in connection.execute(select(texts))}
        packed = connection.execute(select(jobs).order_by(jobs.c.seq)).all()
        plans = connection.scalars(select(attempts.c.plan).order_by(attempts.c.leased_us)).all()
        published = connection.scalars(select(artifacts.c.document)).all()
        assert connection.scalar(text("SELECT value FROM meta WHERE key = 'incarnation'")) == "kept"
    otherwise = {"labels", "spec", "intent", "plan", "redo", "document", "class_key"}
    for name, before in same.items():
        assert len(now[name]) == len(before) > 0
        for old, new in zip(before, now[name], strict=True):
            gone = {"max_attempts"} if name == "tasks" else set()
            assert {k: v for k, v in old.items() if k not in otherwise | gone} == {
                k: v for k, v in new.items() if k in old and k not in otherwise
            }
    for job in packed:
        assert job_pb2.JobSpec.FromString(job.spec) == SPEC
        assert job.labels == dict(SPEC.labels)
        intent = json.loads(job.intent)
        assert kept_texts[intent["preset"]] == PRESET
        assert [kept_texts[o["profile"]] for o in intent["outputs"]] == list(PROFILES[: job.seq % 3])
        assert job.max_attempts == job.seq
        assert job.reason == (Reason.FFMPEG_FAILED if job.state in ("FAILED", "DEAD") else "")
    assert len(kept_texts) == 3
    assert all(hashlib.sha256(text.encode()).hexdigest() == digest for digest, text in kept_texts.items())
    assert [plan and job_pb2.Plan.FromString(plan) for plan in plans] == [PLAN, None] * 4
    assert [job_pb2.Artifact.FromString(document) for document in published] == [ARTIFACT]
    assert now["agents"][0]["media_roots"] == '["/media", "/srv"]'
    assert {row["lane"] for row in now["tasks"]} == {""}
    staged = {row["state"]: bytes(row["redo"]) for row in now["tasks"] if row["redo"] is not None}
    assert {s: agent_service_pb2.StageReport.FromString(redo) for s, redo in staged.items()} == {"PUBLISHING": STAGED}


def test_the_migrated_schema_is_the_declared_one(engine: Engine) -> None:
    """A database that had jobs ends as one that had none; children go with their parents there too."""
    _first_schema(engine)
    upgrade(engine)
    with engine.begin() as connection:
        migrated = _shape(connection)
        connection.execute(text("DELETE FROM jobs"))
        for table in (tasks, attempts, events, artifacts, log_chunks):
            assert connection.execute(select(table)).first() is None
        metadata.drop_all(connection)
        metadata.create_all(connection)
        assert migrated == _shape(connection)


def test_a_migration_that_fails_changes_nothing(engine: Engine) -> None:
    """The database is as it was, and migrates once the cause is gone."""
    _first_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET spec = 'no JSON' WHERE id = 'job7'"))
        before = _shape(connection)
    with pytest.raises(json_format.ParseError):
        upgrade(engine)
    with engine.begin() as connection:
        assert _shape(connection) == before
        connection.execute(text("UPDATE jobs SET spec = '{}' WHERE id = 'job7'"))
    assert stamped(engine) == ("0001", 1)
    upgrade(engine)
    assert stamped(engine) == (HEAD, SCHEMA_LEVEL)
