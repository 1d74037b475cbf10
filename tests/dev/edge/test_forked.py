"""A forked function process is what a new interpreter would be, but for libraries at hand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.edge import forked
from dev.platform import processes
from tests.conftest import ROOT, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux alone")

SAY = """
import json, os, random, sys
files = [name for name in os.listdir("/proc/self/fd") if int(name) > 2]
print(json.dumps({
    "environ": dict(os.environ), "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv,
    "modules": sorted(sys.modules), "session": os.getsid(0), "pid": os.getpid(),
    "random": random.random(), "files": len(files), "name": __name__,
    "writes_no_bytecode": sys.dont_write_bytecode,
}))
"""


def run_forked(code: str, cwd: Path, **environ: str) -> dict[str, object]:
    process = forked.start(code, cwd=cwd, environ=environ)
    text = process.stdout.read()
    assert process.wait(30) == 0, text
    process.stdout.close()
    answer: dict[str, object] = json.loads(text)
    return answer


def test_a_forked_process_has_its_own_environment_folder_session_and_random_seed(
    tmp_path: Path,
) -> None:
    first = run_forked(SAY, tmp_path, ONE="1")
    second = run_forked(SAY, ROOT, TWO="2")
    assert (first["environ"], second["environ"]) == ({"ONE": "1"}, {"TWO": "2"})
    assert (first["cwd"], second["cwd"]) == (str(tmp_path), str(ROOT))
    assert first["session"] == first["pid"] != second["pid"]
    assert first["random"] != second["random"]
    assert (first["name"], first["argv"], first["writes_no_bytecode"]) == ("__main__", ["-c"], True)
    assert first["files"] == 1  # the folder that is listed


def test_a_forked_process_has_the_sys_path_of_a_new_interpreter(tmp_path: Path) -> None:
    forked_path = run_forked(SAY, tmp_path)["path"]
    command = [sys.executable, "-s", "-c", "import json, sys; print(json.dumps(sys.path))"]
    run = subprocess.run(command, capture_output=True, check=True, env={})
    assert forked_path == json.loads(run.stdout)


def test_no_module_of_ours_and_none_that_reads_its_environment_is_preloaded() -> None:
    modules = run_forked(SAY, ROOT)["modules"]
    assert isinstance(modules, list)
    packages = {name.partition(".")[0] for name in modules}
    assert not packages & {"api", "lib", "dev", "ops", "vercel_runtime", "urllib3", "sentry_sdk"}
    assert not packages & {"requests", "resend", "phonenumbers", "pydantic"}


def test_the_exit_status_of_a_forked_process_is_known_however_it_ends() -> None:
    ended = forked.start("raise SystemExit(3)", cwd=ROOT, environ={})
    assert ended.wait(30) == ended.poll() == 3
    killed = forked.start("import time; time.sleep(600)", cwd=ROOT, environ={})
    assert killed.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(0.01)
    killed.kill()
    assert killed.wait(30) == -signal.SIGKILL
    failed = forked.start("1 / 0", cwd=ROOT, environ={})
    assert b"ZeroDivisionError" in failed.stdout.read()
    assert failed.wait(30) == 1
    for process in (ended, killed, failed):
        process.stdout.close()


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """Another process with a function of its own, whose id it prints."""
    code = (
        "import sys; from pathlib import Path; from dev.edge import forked\n"
        "made = forked.start('import time; time.sleep(600)', cwd=Path('/'), environ={})\n"
        "print(made.pid, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        yield process
        process.kill()


def test_a_forked_process_ends_when_its_owner_is_killed(owner: subprocess.Popen[bytes]) -> None:
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert processes.started_at(pid) is not None
    os.kill(owner.pid, signal.SIGKILL)

    def gone() -> bool:
        return processes.started_at(pid) is None

    eventually(gone)
