"""The commands in the documents, as they are written: run where they can be, else parsed."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import click
import psycopg
import pytest

from dev import cli as dev_cli
from dev import tools
from dev.build import vercel_build
from dev.platform.local_platform import Platform
from dev.platform.migrations import ensure_database
from dev.vendors.vercel_deploy import PROJECT, TEAM, DeployApi, Uploaded
from ops import cli
from ops.command import Invocation
from ops.keys import env_file
from ops.recovery import migrations
from tests.conftest import ROOT

DOCUMENTS = ("README.md", "dev/README.md", "docs/deploy.md", "ops/README.md")

# What a reader puts in place of a word of the documents.
WORDS = {"NAME": "CRON_SECRET", "FILE": "mail.eml", "ID": "1", "N": "1", "M": "1", "…": "x",
         "[tombstones.jsonl]": "tombstones.jsonl"}  # fmt: skip


def blocks(document: str, kind: str = "sh") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.M | re.S)


def written(program: str) -> list[tuple[str, bool]]:
    """Every command of `python3 -m <program>` in the documents; True: a line of its own."""
    commands: dict[tuple[str, bool], None] = {}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text("utf-8")
        shown = re.findall(r"^ {4}(\S.*)$", text, re.M)
        shown += [line for block in blocks(document) for line in block.splitlines()]
        for line in shown:
            # A line may hold two, and end in a comment.
            for part in re.split(r" (?:\|\||&&) ", re.sub(r"\s+#\s.*", "", line)):
                if part.startswith(f"python3 -m {program}"):
                    commands[part.removeprefix(f"python3 -m {program}").strip(), True] = None
        for words in re.findall(rf"`(?:python3 -m )?{program} ([^`]+)`", text):
            commands[words, False] = None
    return list(commands)


def words_of(command: str) -> list[str]:
    """A command's words, up to where its output goes; placeholders filled in."""
    words = shlex.split(command.replace("ERASE-…", "ERASE-1"))
    end = next((place for place, word in enumerate(words) if word in (">", "|")), len(words))
    return [WORDS.get(word, os.path.expandvars(word)) for word in words[:end]]


def is_command(words: list[str]) -> bool:
    """Whether ops takes this line; nothing is run."""
    command: click.Command = cli.root
    context: click.Context | None = None
    name: str | None = "ops"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            while True:
                context = command.make_context(name or "", words, context, obj=Invocation({}))
                if not isinstance(command, click.Group):
                    return True
                rest = [*context._protected_args, *context.args]
                name, subcommand, words = command.resolve_command(context, rest)
                assert subcommand is not None
                command = subcommand
    except click.exceptions.Exit as ended:  # --help
        return ended.exit_code == 0
    except click.UsageError:
        return False


def parses(parser: object, words: list[str]) -> bool:
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            parser.parse_args(words)  # type: ignore[attr-defined]
    except SystemExit as ended:
        return not ended.code
    return True


@pytest.mark.parametrize(("command", "whole"), written("ops"), ids=str)
def test_every_documented_ops_command_parses(command: str, whole: bool) -> None:
    """In running text a command may be named without what it needs: then its help must exist."""
    words = words_of(command)
    assert is_command(words) or (not whole and is_command([*without_options(words), "--help"])), (
        f"python3 -m ops {command}: see --help"
    )


@pytest.mark.parametrize(("command", "whole"), written("dev"), ids=str)
def test_every_documented_dev_command_parses(command: str, whole: bool) -> None:
    words = words_of(command)
    if words[:1] in (["test"], ["bench"]):
        return  # they take what is meant for pytest, or a benchmark
    assert parses(dev_cli.parser(), words) or not whole


def without_options(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("-") and word.islower()][:2]


# ------------------------------------------------------------------ the runbook's lines, run

# They change what the other tests of this session stand on, or take minutes; each has its own.
ELSEWHERE = {
    "restore-drill": "tests/ops/recovery/test_recovery.py",
    "restore": "tests/ops/recovery/test_recovery.py",
    "alert-drill": "tests/ops/incidents/test_on_call_commands.py",
}


def runnable() -> list[str]:
    lines = [command for command, whole in written("ops") if whole and "…" not in command]
    return [line for line in lines if line.split()[0] not in ELSEWHERE and "$" not in line]


@pytest.mark.parametrize("command", runnable())
def test_every_complete_command_of_the_runbook_runs(
    platform: Platform, database: psycopg.Connection[object], command: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It does its work or says what is wrong (1); never wrong usage or a missing variable (2)."""
    monkeypatch.chdir(tmp_path)
    shutil_link(tmp_path, "supabase")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # a question is answered by nobody
    for name in ("mail.eml", "mails.eml", "sales.mbox", "saved.htm"):
        (tmp_path / name).write_text("Subject: New Lead\n\nnothing sealed in here\n")
    for name in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    status = cli.main(words_of(command), platform.environment)
    output = capsys.readouterr()
    assert status in (0, 1) or "no terminal to ask at" in output.err, output.err
    assert output.out + output.err != ""
    assert "Traceback" not in output.out + output.err


def shutil_link(folder: Path, name: str) -> None:
    (folder / name).symlink_to(ROOT / name)


# ------------------------------------------------------------------ docs/deploy.md, to the letter


@pytest.fixture
def project(platform: Platform, database: object) -> Iterator[str]:
    """A database as a fresh Supabase project has it."""
    name = "deploy_guide"
    parts = urlsplit(platform.admin_database_url)
    drop = f'drop database if exists "{name}" with (force)'.encode()
    with psycopg.connect(platform.admin_database_url, autocommit=True) as connection:
        connection.execute(drop)
        ensure_database(platform.admin_database_url, name)
        url = urlunsplit(parts._replace(path=f"/{name}"))
        yield url
        connection.execute(drop)


@pytest.fixture
def api() -> Iterator[DeployApi]:
    serving = DeployApi("tokenOfVercel1")
    yield serving
    serving.close()


def test_the_deploy_guide_is_followed_to_the_letter(
    platform: Platform, project: str, api: DeployApi, built: Path, tmp_path: Path
) -> None:
    """Every line of its shell blocks, in order. What is put in its place is no command of it:
    the CLIs are told where the stand-in listens, and the build was made before."""
    clone = tmp_path / "clone"
    vercel_build.copy_tree(ROOT, clone)
    (clone / ".dev/build").mkdir(parents=True)
    (clone / ".dev/build/project").symlink_to(built)
    (clone / ".dev/node/node_modules/.bin").mkdir(parents=True)
    vercel, supabase = tools.ensure_vercel(), tools.ensure_supabase()
    wrap(clone, "vercel", f'exec {vercel} "$@" --token tokenOfVercel1 --api {api.url}')
    wrap(clone, "supabase", f'exec {supabase} "$@" --agent=no')
    python = ROOT / ".venv/bin/python"
    wrap(clone, "python3", f'[ "$2" = dev ] || exec {python} -m ops.cli "${{@:3}}"')
    filled = {**platform.environment, "DATABASE_DIRECT_URL": project, "MAIL_FROM": "A <a@b.co>",
              "RUM_DRAIN_SECRET": "a&b #c's"}  # fmt: skip
    text = env_file.with_changes((clone / ".env.example").read_text("utf-8"), "", dict(filled))
    (clone / "production.env").write_text(text)
    script = "set -euo pipefail\n" + "".join(blocks("docs/deploy.md"))
    answer = subprocess.run(
        ["bash", "-c", script.replace('export PATH="$PWD', 'export PATH="' + str(clone))],
        cwd=clone,
        env={"PATH": f"{clone}/.dev/node/node_modules/.bin:{os.environ['PATH']}",
             "HOME": str(tmp_path), "CI": "1", "VERCEL_TELEMETRY_DISABLED": "1",
             "SUPABASE_TELEMETRY_DISABLED": "1", "PGSSLMODE": "disable",
             "VERCEL_ORG_ID": TEAM, "VERCEL_PROJECT_ID": PROJECT},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert api.unknown == []
    deployments = [(deployment.target, deployment.prebuilt) for deployment in api.deployments]
    assert deployments == [(None, False), ("production", False), ("production", True)]
    every_file_is_deployed(api.deployments[2], built)
    assert api.variables["MAIL_FROM"] == "A <a@b.co>"
    assert api.variables["DATABASE_URL"] == platform.environment["DATABASE_URL"]
    assert "nothing to apply" in answer.stdout


def every_file_is_deployed(deployment: Uploaded, built: Path) -> None:
    """Of the prebuilt output: every function with what it maps, and what is static."""
    functions = sorted((built / ".vercel/output/functions").rglob(".vc-config.json"))
    assert len(functions) == len(list((built / "api").rglob("*.py")))
    mapped = {
        outside
        for file in functions
        for outside in json.loads(file.read_text())["filePathMap"].values()
    }
    static = [path for path in (built / ".vercel/output/static").rglob("*") if path.is_file()]
    own = {file.relative_to(built).as_posix() for file in (*functions, *static)}
    for path in mapped | own:
        assert deployment.files[path] == (built / path).read_bytes(), path


def wrap(clone: Path, name: str, script: str) -> None:
    file = clone / ".dev/node/node_modules/.bin" / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


def test_the_sql_of_the_deploy_guide_makes_the_role(project: str) -> None:
    migrations.apply(project, ROOT / "supabase/migrations")
    (block,) = blocks("docs/deploy.md", "sql")
    with psycopg.connect(project) as connection:
        connection.execute(block.replace("alfa_api_a", "alfa_api_guide").encode())
        row = connection.execute(
            "select pg_has_role('alfa_api_guide', 'alfa_app', 'member'), rolconfig"
            " from pg_roles where rolname = 'alfa_api_guide'"
        ).fetchone()
        connection.rollback()
    assert row == (True, ["statement_timeout=8s"])
