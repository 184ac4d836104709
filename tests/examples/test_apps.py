"""The apps in examples/apps: deployed on a real server, in environments of their own, called with `input.json`."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import stepwell
from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.cli import cli
from stepwell.server import Server
from stepwell.wire import app as wire
from tests.apps.harness import HARNESS, Harness
from tests.apps.wheels import repack
from tests.docs.running import running_server
from tests.libraries.environments import python_of
from tests.libraries.test_model_engine import BUILD

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "apps"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("apps")
    repack(folder / "wheels", python_of("example-apps"))
    environments = EnvironmentSettings(find_links=(str(folder / "wheels"),), offline=True)
    with running_server(data=folder / "data", apps=AppSettings(environments=environments)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[stepwell.Client]:
    with stepwell.Client(server.url) as client:
        yield client


def deploy(server: Server, name: str) -> str:
    """Returns the reference of its version."""
    done = CliRunner().invoke(cli, ["app", "deploy", str(EXAMPLES / name), "--url", server.url])
    assert done.exit_code == 0, done.output
    reference = done.stdout.strip()
    assert reference.startswith(f"examples/{name}@")
    return reference


def sample(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((EXAMPLES / name / "input.json").read_text())
    return read


def test_embeddings_are_near_for_texts_about_the_same_things(server: Server, client: stepwell.Client) -> None:
    reference = deploy(server, "embeddings")
    wet, storm, money = client.tasks.run(reference, sample("embeddings"))["vectors"]
    assert len(wet) == 16
    assert math.isclose(math.hypot(*wet), 1, abs_tol=1e-4)

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert near(wet, storm) > 0.5 > 0.2 > near(wet, money)
    asked = ["Where do I buy a ticket?", "He boards the train", "A fever needs a doctor", "xyzzy"]
    ticket, train, fever, unknown = client.tasks.run(reference, {"texts": asked})["vectors"]
    assert near(ticket, train) > 0.5 > 0.2 > near(ticket, fever)
    assert unknown == [0.0] * 16
    shorter = client.tasks.run(reference, {"texts": asked, "dimensions": 4})["vectors"]
    assert [len(vector) for vector in shorter] == [4] * 4


def test_a_thumbnail_is_kept_as_a_file(server: Server, client: stepwell.Client) -> None:
    reference = deploy(server, "thumbnail")
    output = client.tasks.run(reference, sample("thumbnail"))
    assert (output["width"], output["height"]) == (16, 8)
    assert client.files.download(output["image"]).startswith(b"\x89PNG")
    given = {"image": {"uri": output["image"]}, "format": "webp", "width": 4}
    smaller = client.tasks.run(reference, given)
    content = client.files.download(smaller["image"])
    assert (content[:4], content[8:12]) == (b"RIFF", b"WEBP")
    with pytest.raises(stepwell.TaskFailed, match="cannot identify image"):
        client.tasks.run(reference, {"image": "data:image/png;base64,AAAA"})


def test_cells_of_a_notebook_share_their_names_in_a_session(server: Server, client: stepwell.Client) -> None:
    reference = deploy(server, "notebook")
    with client.sessions.open(reference) as session:
        assert session.run(sample("notebook")) == {"value": "14", "names": ["squares"]}
        assert session.run({"code": "squares[-1] + 1"})["value"] == "10"
        with pytest.raises(stepwell.TaskFailed, match="division by zero"):
            session.run({"code": "1 / 0"})
        assert session.run({"code": "len(squares)"})["value"] == "4"
    with client.sessions.open(reference) as other, pytest.raises(stepwell.TaskFailed, match="squares"):
        other.run({"code": "squares"})


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A folder with ffmpeg, as it is installed by a package of the test's."""
    code = "import imageio_ffmpeg as i; print(i.get_ffmpeg_exe())"
    found = subprocess.run([python_of("example-apps"), "-c", code], capture_output=True, text=True, check=True)
    (tmp_path / "ffmpeg").symlink_to(found.stdout.strip())
    return str(tmp_path)


def test_a_recording_is_cut(programs: str) -> None:
    with Harness(python_of("example-apps"), HARNESS / "harness.py", env={"PATH": programs}) as harness:
        harness.load(EXAMPLES / "sound")
        harness.setup()
        for format, begins in (("wav", b"RIFF"), ("flac", b"fLaC"), ("ogg", b"OggS")):
            output = harness.run("run", {**sample("sound"), "format": format})
            assert output["seconds"] == pytest.approx(0.05, abs=0.011)
            assert Path(output["recording"]["path"]).read_bytes().startswith(begins)
        harness.send(wire.Run(call="c2", function="run", input={"recording": "data:audio/wav;base64,AAAA"}))
        (*_, failed) = harness.until_ended()
        assert isinstance(failed, wire.Failed)
        assert "ffmpeg cannot convert it" in failed.message


def test_an_app_says_that_ffmpeg_is_missing(server: Server, tmp_path: Path) -> None:
    with Harness(python_of("example-apps"), HARNESS / "harness.py", env={"PATH": str(tmp_path)}) as harness:
        harness.load(EXAMPLES / "sound")
        harness.send(wire.Setup(value=None, metadata={}))
        failed = harness.expect(wire.Failed)
        assert "apt-get install ffmpeg" in failed.message
    if not any(os.access(Path(folder) / "ffmpeg", os.X_OK) for folder in os.environ["PATH"].split(os.pathsep)):
        done = CliRunner().invoke(cli, ["app", "deploy", str(EXAMPLES / "sound"), "--url", server.url])
        assert "ffmpeg" in done.stderr
        assert done.exit_code == 0


@pytest.mark.long
def test_a_language_model_answers(tmp_path: Path) -> None:
    """llama.cpp with random weights: real tokens, no sense."""
    python, model = str(python_of("llama-cpp-python", **BUILD)), str(tmp_path / "tiny.gguf")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    subprocess.run([python, "-m", "tests.libraries.tiny_model", model], env=environment, cwd=ROOT, check=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from inference import Language; "
        "given = Language.Input.model_validate_json(open(sys.argv[1] + '/input.json').read()); "
        "print(Language.run_locally(given, setup={'model': sys.argv[2]}).model_dump_json())"
    )
    command = [python, "-c", code, str(EXAMPLES / "language"), model]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["response"]
    assert 10 < output["usage"]["total_tokens"] <= 2048
    assert output["usage"]["stop_reason"] in ("length", "stop")
