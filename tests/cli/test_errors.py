"""Whatever goes wrong in a command is one line that says what to do, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stepwell

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEP = '{"x": ' * 2000 + "1" + "}" * 2000
REFUSED = [
    (["send", "s/x", '{"x": NaN}'], "DATA is not JSON: it has no NaN"),
    (["send", "s/x", '{"x": -Infinity}'], "DATA is not JSON: it has no -Infinity"),
    (["send", "s/x", '{"x": "\\ud83d"}'], "DATA cannot be sent: text with a lone surrogate"),
    (["send", "s/x", '{"x": [9007199254740993]}'], "DATA: the integer 9007199254740993 is beyond 2**53 and would be"),
    (["send", "s/x", DEEP], "DATA is nested too deeply"),
    (["send", "s/x", b'{"x": "\xff"}'], "DATA is not UTF-8 text (character 8)"),
    (["send", b"s/\xff", "{}"], "NAME is not UTF-8 text (character 3)"),
    (["send", "s/x", "{}", "--id", b"\xff"], "--id is not UTF-8 text"),
    (["send", "s/x", "{}", "--event-key", b"\xff"], "--event-key is not UTF-8 text"),
    (["run", "show", b"\xff"], "ID is not UTF-8 text"),
    (["run", "cancel", b"\xff"], "ID is not UTF-8 text"),
    (["runs", "-f", b"\xff"], "--function is not UTF-8 text"),
    (["run", "show", ""], "ID is empty"),
]
ANSWERS = {
    "html": (b"text/html", b"<h1>It works</h1>"),
    "latin": (b"text/plain", b"caf\xe9"),
    "list": (b"application/json", b"[1]"),
    "other": (b"application/json", b'{"status": "ok"}'),
    "nothing": (b"text/plain", b""),
}


def run(
    *words: str | bytes, given: bytes = b"", before: str = "", variables: dict[str, str] | None = None
) -> tuple[int, str]:
    """How a command ends, and what it says on standard error."""
    program = f"import sys\n{before}\nfrom stepwell.cli import main\nmain()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL", "INNGEST"))}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        input=given,
        capture_output=True,
        env=environment | (variables or {}),
        timeout=60,
        check=False,
    )
    said = done.stderr.decode()
    assert "Traceback" not in said, said
    return done.returncode, said


@pytest.fixture(scope="module")
def strangers() -> Iterator[str]:
    """Programs that are no Stepwell server; the first part of the path says which."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            kind, body = ANSWERS[self.path.split("/")[1]]
            self.send_response(200)
            self.send_header("content-type", kind.decode())
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("words", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_what_cannot_be_sent_is_a_usage_error(words: list[str | bytes], what: str) -> None:
    code, said = run(*words, "--url", "http://127.0.0.1:1")
    assert code == 2
    assert what in said


@pytest.mark.parametrize("url", [b"http://\xff", "http://a..b:1", f"http://{'a' * 300}.com"])
def test_an_address_that_no_host_can_have_is_a_usage_error(url: str | bytes) -> None:
    code, said = run("runs", "--url", url)
    assert code == 2
    assert "--url (or STEPWELL_URL): " in said
    assert "is not the address of a server" in said


def test_standard_input_that_is_no_text_is_a_usage_error() -> None:
    code, said = run("send", "s/x", "-", given=b'{"x": "\xff"}')
    assert code == 2
    assert "standard input is not JSON" in said


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("words", [["runs"], ["send", "s/x"], ["run", "show", "01J"], ["status"]], ids=" ".join)
def test_an_answer_of_another_program_is_told_as_such(strangers: str, words: list[str], answer: str) -> None:
    code, said = run(*words, variables={"STEPWELL_URL": f"{strangers}/{answer}"})
    assert code == 1
    assert f"{strangers}/{answer} answers, but not as a Stepwell server does" in said
    assert "Is --url (or STEPWELL_URL) right?" in said


@pytest.mark.parametrize("answer", ["html", "latin", "nothing"])
def test_a_client_tells_it_too(strangers: str, answer: str) -> None:
    with (
        stepwell.Client(url=f"{strangers}/{answer}") as client,
        pytest.raises(stepwell.StepwellError, match=r"not as a Stepwell server does.*STEPWELL_URL"),
    ):
        list(client.runs())


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(tmp_path: Path) -> None:
    broken = (
        "import stepwell.cli.api as api\ndef fail(*_, **__): raise LookupError('no \\udcff such')\napi.Api.get = fail"
    )
    code, said = run("runs", before=broken, variables={"TMPDIR": str(tmp_path)})
    assert code == 1
    assert "Error: unexpected LookupError: no ? such. This is a defect of Stepwell: please report it" in said
    assert len(said.splitlines()) == 1
    [kept] = tmp_path.glob("stepwell-error-*.txt")
    assert str(kept) in said
    assert "in fail" in kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (["dev", "--port", "0"], "aiohttp", "server"),
        (["start"], "aiohttp", "server"),
        (["dev", "--port", "0"], "uvicorn", "server"),
        (["start"], "uvloop", "server"),
        (["dev", "--port", "0"], "starlette", "server"),
        (["audit", "--db", "postgresql://127.0.0.1:1/x"], "uvicorn", "server"),
        (["audit", "--db", "postgresql://127.0.0.1:1/x"], "asyncpg", "postgres"),
        (["doctor", "--db", "postgresql://127.0.0.1:1/x"], "asyncpg", "postgres"),
        (["dev", "--port", "0", "--db", "postgresql://127.0.0.1:1/x"], "asyncpg", "postgres"),
        (["start", "--port", "0", "--db", "postgresql://127.0.0.1:1/x", "--processes", "2"], "asyncpg", "postgres"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, words: list[str], missing: str, extra: str
) -> None:
    variables = {"STEPWELL_DATA": str(tmp_path / "data"), "PYTHONPATH": str(tmp_path)}
    # Children of a command are to miss it too, so the module is hidden by one that comes first.
    hidden = f"raise ModuleNotFoundError('hidden', name={missing!r})"
    (tmp_path / f"{missing}.py").write_text(hidden, encoding="utf-8")
    if words[0] == "start":
        variables |= {"STEPWELL_SIGNING_KEY": "0123456789abcdef" * 4, "STEPWELL_EVENT_KEY": "an-event-key"}
    code, said = run(*words, variables=variables)
    shown = json.dumps(f"stepwell[{extra}]")
    assert f"pip install {shown}" in said
    assert code == 1
    assert not (tmp_path / "data").exists()
