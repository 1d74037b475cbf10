"""Files of variables: `.env.example`, and what we write, read alike by bash, dotenv and us."""

import io
import json
import subprocess
from pathlib import Path

import dotenv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import cli
from ops.command import Failed
from ops.keys import env_file
from ops.keys.key_file import KeyFile
from tests.conftest import ROOT

DUMP = "import json, os; print(json.dumps(dict(os.environ)))"

VALUES = {
    "plain": "re_123",
    "empty": "",
    "ampersand": "postgresql://u:p@h:6543/postgres?sslmode=require&application_name=x",
    "spaces": "  Alfa Beauty <noreply@alfabeauty.co.id>  ",
    "hash": "a #b#c",
    "double quotes": 'say "no"',
    "single quote": "it's",
    "both quotes": 'it\'s "so"',
    "JSON": json.dumps({"a": ["b c", 1], "d": 'e"f', "g": "h\\i", "k": "l's"}),
    "backslash": "C:\\new\\table",
    "dollar": "pa$$word$HOME",
    "command": "`id` $(id) ; id | id > x",
    "glob": "* ? [a] ~ !x",
    "lines": "-----BEGIN KEY-----\nabc+/=\n-----END KEY-----\n",
    "unicode": "Ümläut \u2028 \u00a0 \U0001f600",
}


def sourced(file: Path) -> dict[str, str]:
    """The environment of a program that a shell starts after it has read the file."""
    script = 'set -eu -a; . "$1"; set +a; exec "$2" -c "$3"'
    python = ROOT / ".venv" / "bin" / "python"
    answer = subprocess.run(
        ["bash", "-c", script, "bash", str(file), str(python), DUMP],
        env={"PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    values: dict[str, str] = json.loads(answer.stdout)
    return values


def by_dotenv(file: Path) -> dict[str, str | None]:
    return dict(dotenv.dotenv_values(file))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_kept_value_is_the_same_to_a_shell_to_dotenv_and_to_us(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "my file.env"
    KeyFile(file).update({"BEFORE": "1", "THE_VALUE": value, "AFTER": "2"})
    wanted = {"BEFORE": "1", "THE_VALUE": value, "AFTER": "2"}
    assert KeyFile(file).read() == by_dotenv(file) == wanted
    assert sourced(file).items() >= wanted.items()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_value_is_read_alike_or_refused(tmp_path_factory: object, value: str) -> None:
    try:
        text = f"V={env_file.quote('V', value)}\nW=w\n"
    except Failed:
        assert "\r" in value or any(sign in value for sign in "$`")
        return
    assert env_file.read_values(text, "f") == {"V": value, "W": "w"}
    assert dotenv.dotenv_values(stream=io.StringIO(text)) == {"V": value, "W": "w"}
    answer = subprocess.run(
        ["bash", "-c", f'{text}printf "%s" "$V"'], capture_output=True, check=True
    )
    assert answer.stdout == value.encode()


@pytest.mark.parametrize("value", ["it's $5", "a\\$b", "x${HOME}'", "'`id`'", "a\rb", "${HOME}"])
def test_what_the_two_would_read_differently_is_refused_and_nothing_is_written(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "mine.env"
    file.write_text("A=1\n")
    with pytest.raises(Failed, match="THE_VALUE: a file of variables cannot hold"):
        KeyFile(file).update({"THE_VALUE": value})
    assert file.read_text() == "A=1\n"


def test_other_lines_stay_and_those_a_shell_would_read_differently_are_quoted(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.env"
    portable = "# ours, 'as written\n\nexport A=1 # one\nB='x & y'\nC=\"z \\\" \\\\\"\n\n  # end\n"
    file.write_text(portable + 'URL=postgres://h/d?a=1&b=2\nFROM = A <a@b.co>\nJ={"a": 1}\n')
    KeyFile(file).update({"NEW": "n"})
    assert file.read_text() == (
        portable + "URL='postgres://h/d?a=1&b=2'\nFROM='A <a@b.co>'\nJ='{\"a\": 1}'\nNEW='n'\n"
    )
    wanted = {"A": "1", "B": "x & y", "C": 'z " \\', "URL": "postgres://h/d?a=1&b=2",
              "FROM": "A <a@b.co>", "J": '{"a": 1}', "NEW": "n"}  # fmt: skip
    assert KeyFile(file).read() == by_dotenv(file) == wanted
    assert sourced(file).items() >= wanted.items()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('# Created by Vercel CLI\nA="1"\nJSON="{"a":1}"\nB="2"\n', "line 3: not NAME=value"),
        ("A=1\n\n\nB='x\n", "line 4: not NAME=value"),
        ("A=1\nSECRET\n", "line 2: not NAME=value"),
        ("A=1\nsome words=x\n", "line 2: not NAME=value"),
        ("A-B=1\n", "line 1: 'A-B' is no name"),
        ('A="1"\nB="${A}/x"\n', "line 2: ${…} is read in different ways"),
    ],
    ids=["JSON as `vercel env pull` writes it", "open quote", "no value", "words", "name", "${}"],
)
def test_a_line_that_is_none_is_an_error_that_names_it(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "mine.env"
    file.write_text(text)
    for act in (KeyFile(file).read, lambda: KeyFile(file).update({"C": "3"})):
        with pytest.raises(Failed) as refused:
            act()
        assert f"mine.env, {words}" in str(refused.value)
    assert file.read_text() == text


def test_what_vercel_env_pull_writes_is_read(tmp_path: Path) -> None:
    """Its format: "…" around every value, a line feed as \\n."""
    file = tmp_path / ".env.local"
    file.write_text(
        '# Created by Vercel CLI\nMAIL_FROM="Alfa Beauty <a@b.co>"\nURL="https://x/?a=1&b=#c"\n'
        'KEY="a\\nb"\nEMPTY=""\n'
    )
    assert KeyFile(file).read() == {
        "MAIL_FROM": "Alfa Beauty <a@b.co>", "URL": "https://x/?a=1&b=#c", "KEY": "a\nb",
        "EMPTY": "",
    }  # fmt: skip


def test_the_example_is_read_alike_by_a_shell_by_dotenv_and_by_us() -> None:
    file = ROOT / ".env.example"
    wanted = env_file.read_values(file.read_text("utf-8"), file.name)
    assert wanted["MAIL_FROM"] == "Alfa Beauty <noreply@alfabeauty.co.id>"
    assert wanted["DATABASE_URL"].endswith("?sslmode=require")
    assert by_dotenv(file) == wanted
    assert sourced(file).items() >= wanted.items()


def test_a_faulty_file_stops_a_command_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.env"
    file.write_text('CRON_SECRET="a"b"\n')
    environ = {"CRON_SECRET": "x" * 32, "SITE_URL": "https://x", "KEY_FINGERPRINT_PEPPER": "p"}
    assert cli.main(["rotate", "CRON_SECRET", "--yes", "--keep", str(file)], environ) == 1
    assert f"{file}, line 1: not NAME=value" in capsys.readouterr().err
