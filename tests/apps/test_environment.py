"""Environments, made by the real `uv` and `npm` of packages that the tests make."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepwell.apps.environment import (
    READY,
    Environment,
    Environments,
    EnvironmentSettings,
    missing_packages,
    read_requirements,
)
from stepwell.apps.isolation import find_isolation
from stepwell.model.errors import BuildFailed
from tests.apps.wheels import make_wheel

KERNEL = f"python-{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """The only packages there are."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "msgpack")
    make_wheel(folder, "tea", "1.0")
    make_wheel(folder, "tea", "2.0")
    return folder


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


ISOLATION = find_isolation("auto")


@pytest.fixture
def environments(tmp_path: Path, wheels: Path) -> Environments:
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    return Environments(tmp_path / "environments", settings, ISOLATION)


def says(environment: Environment, code: str) -> str:
    """What the interpreter of an environment prints."""
    done = subprocess.run([str(environment.executable), "-B", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_an_environment_has_what_is_required_and_what_the_harness_needs(
    app: Path, environments: Environments
) -> None:
    (app / "requirements.txt").write_text("# drinks\n\ntea<2  # the old one\n")
    told: list[str] = []
    environment = await environments.prepare(app, KERNEL, progress=told.append)
    assert says(environment, "import tea, msgpack; print(tea.version)") == "1.0"
    assert says(environment, "import sys; print('.'.join(map(str, sys.version_info[:3])))") == environment.version
    assert environment.programs == environment.directory / "bin"
    assert environment.warnings == ()
    assert " + tea==1.0" in told
    assert told[-1] == "the environment is ready"


async def test_the_same_requirements_share_one_environment(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    (app / "requirements.txt").write_text("tea==1.0\n")
    first = await environments.prepare(app, KERNEL)
    other = tmp_path / "other"
    other.mkdir()
    (other / "requirements.lock").write_text("# made by a tool\ntea==1.0\n    # via -r requirements.txt\n")
    (other / "requirements.txt").write_text("tea")
    told: list[str] = []
    assert await environments.prepare(other, KERNEL, progress=told.append) == first
    assert told == []
    (other / "requirements.lock").unlink()
    newer = await environments.prepare(other, KERNEL)
    assert newer.key != first.key
    assert says(newer, "import tea; print(tea.version)") == "2.0"


async def test_many_who_ask_at_once_wait_for_one_build(app: Path, tmp_path: Path, wheels: Path) -> None:
    """In one process and in several: each `Environments` is one."""
    (app / "requirements.txt").write_text("tea")
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    several = [Environments(tmp_path / "environments", settings) for _ in range(3)]
    told: list[str] = []
    asked = [one.prepare(app, KERNEL, progress=told.append) for one in several for _ in range(3)]
    assert len({environment.key for environment in await asyncio.gather(*asked)}) == 1
    assert sum(line.startswith("making an environment") for line in told) == 1


async def test_a_build_that_fails_leaves_nothing_and_says_why(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    (app / "requirements.txt").write_text("tea==1.0\ntea==2.0\n")
    with pytest.raises(
        BuildFailed, match=r"(?s)the requirements cannot be installed:.*you require tea==1\.0 and tea=="
    ):
        await environments.prepare(app, KERNEL)
    assert [path for path in (tmp_path / "environments").iterdir() if path.is_dir()] == []
    (app / "requirements.txt").write_text("tea==1.0\n")
    await environments.prepare(app, KERNEL)


async def test_a_cancelled_build_leaves_nothing(app: Path, tmp_path: Path, environments: Environments) -> None:
    (app / "requirements.txt").write_text("tea")
    under_way = asyncio.Event()
    build = asyncio.create_task(environments.prepare(app, KERNEL, progress=lambda _: under_way.set()))
    await under_way.wait()
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    assert [path for path in (tmp_path / "environments").iterdir() if path.is_dir()] == []
    await environments.prepare(app, KERNEL)


async def test_what_a_killed_build_left_is_made_again(app: Path, environments: Environments) -> None:
    (app / "requirements.txt").write_text("tea")
    environment = await environments.prepare(app, KERNEL)
    (environment.directory / READY).unlink()
    (environment.directory / "half").touch()
    again = await environments.prepare(app, KERNEL)
    assert again == environment
    assert not (again.directory / "half").exists()


async def test_what_other_killed_builds_left_goes_with_the_next_one(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    folder = tmp_path / "environments"
    for key in ("a" * 32, "b" * 32):
        (folder / key / "lib").mkdir(parents=True)
    with (folder / f"{'b' * 32}.lock").open("ab") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        environment = await environments.prepare(app, KERNEL)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {environment.key, "b" * 32}


async def test_packages_are_compiled_once(app: Path, environments: Environments) -> None:
    """Processes of apps may not write into their environment."""
    (app / "requirements.txt").write_text("tea")
    environment = await environments.prepare(app, KERNEL)
    assert Path(says(environment, "import tea; print(tea.__cached__)")).exists()


@pytest.mark.slow
async def test_a_server_killed_while_it_builds_does_not_disturb_the_next_one(
    app: Path, tmp_path: Path, wheels: Path
) -> None:
    """Its `uv` may go on for a while; the next server waits for it, and then builds."""
    (app / "requirements.txt").write_text("tea")
    code = f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        from stepwell.apps.environment import Environments, EnvironmentSettings
        def told(line):
            if line.startswith("making"):
                asyncio.get_running_loop().call_later(float(sys.argv[1]), os.kill, os.getpid(), signal.SIGKILL)
        settings = EnvironmentSettings(find_links=({str(wheels)!r},), offline=True)
        folder = Path({str(tmp_path / "environments")!r})
        asyncio.run(Environments(folder, settings).prepare(Path({str(app)!r}), {KERNEL!r}, progress=told))
    """
    for delay in ("0", "0.05", "0.1", "0.15", "0.2"):
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(code), delay)
        await killed.wait()
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    environment = await Environments(tmp_path / "environments", settings, ISOLATION).prepare(app, KERNEL)
    assert says(environment, "import tea; print(tea.version)") == "2.0"


async def test_a_second_stage_is_built_with_the_packages_of_the_first(app: Path, wheels: Path, tmp_path: Path) -> None:
    """A package whose setup.py imports another one cannot be built alone."""
    for name in ("setuptools", "wheel"):
        make_wheel(wheels, name, files={})
    backend = """
        import tea, zipfile
        def build_wheel(folder, config_settings=None, metadata_directory=None):
            with zipfile.ZipFile(folder + "/pot-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr("pot.py", "brewed = " + repr(tea.version))
                info = "pot-1.0.dist-info/"
                wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: pot\\nVersion: 1.0\\n")
                wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                wheel.writestr(info + "RECORD", "")
            return "pot-1.0-py3-none-any.whl"
    """
    a_package_that_runs(app, textwrap.dedent(backend))
    (app / "requirements.txt").write_text("tea==1.0")
    (app / "requirements2.txt").write_text("./pot")
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    environment = await Environments(tmp_path / "environments", settings, ISOLATION).prepare(app, KERNEL)
    assert says(environment, "import pot; print(pot.brewed)") == "1.0"


async def test_files_that_requirements_name_are_those_beside_them(app: Path, environments: Environments) -> None:
    make_wheel(app / "wheels", "pot", "3.0")
    (app / "lib").mkdir()
    (app / "lib" / "base.txt").write_text("tea\n")
    (app / "bounds.txt").write_text("tea<2\n")
    (app / "requirements.txt").write_text("-r lib/base.txt\n-c bounds.txt\nwheels/pot-3.0-py3-none-any.whl\n")
    environment = await environments.prepare(app, KERNEL)
    assert says(environment, "import tea, pot; print(tea.version, pot.version)") == "1.0 3.0"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("inferencesh", "inferencesh"),
        ("inferencesh>=0.2.5", "inferencesh>=0.2.5"),
        ("Inferencesh[async]==0.6", "Inferencesh[async]==0.6"),
        ("git+https://github.com/inference-sh/sdk-python.git@0a1b2c", "inferencesh"),
        ("git+https://github.com/inference-sh/sdk-py", "inferencesh"),
        ("-e git+https://example.com/x.git#egg=inferencesh", "inferencesh"),
        ("inferencesh @ git+https://github.com/inference-sh/sdk-python.git@0a1b2c", "inferencesh"),
        ("inferencesh[async]@git+https://x/y.git ; extra == 'x'", "inferencesh[async] ; extra == 'x'"),
        ("https://example.com/inferencesh-0.4.1-py3-none-any.whl", "inferencesh"),
        ("inferencesh-extras==1", "inferencesh-extras==1"),
        ("git+https://github.com/hub/diffusers.git@main", "git+https://github.com/hub/diffusers.git@main"),
        ("torch==2.1 \\\n --hash=sha256:00 \\\n --hash=sha256:11", "torch==2.1 --hash=sha256:00 --hash=sha256:11"),
        ("--extra-index-url https://example.com/simple", "--extra-index-url https://example.com/simple"),
        ("-r base.txt", "-r /app/base.txt"),
        ("--find-links=wheels", "--find-links /app/wheels"),
        ("-e .", "-e /app"),
        ("x @ https://example.com/x.zip  # why", "x @ https://example.com/x.zip"),
        ("# nothing", ""),
    ],
)  # fmt: skip
def test_requirements_are_taken_as_they_are_but_for_the_sdk(written: str, read: str) -> None:
    assert "\n".join(read_requirements(written, Path("/app"), {})) == read


def test_an_offline_server_gives_its_own_copy_of_the_sdk() -> None:
    for written in (
        "inferencesh", "inferencesh[async]>=0.2", "git+https://github.com/inference-sh/sdk-python.git@0a1b2c",
        "inferencesh @ git+https://example.com/y.git", "INFERENCESH == 0.1 --hash=sha256:00",
    ):  # fmt: skip
        substitutes = {"inferencesh": "inferencesh==0.36.0"}
        assert read_requirements(written, Path("/app"), substitutes) == ("inferencesh==0.36.0",)


async def test_substitutes_reach_the_environment(app: Path, wheels: Path, tmp_path: Path) -> None:
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True, substitutes={"inferencesh": "tea==1.0"})
    (app / "requirements.txt").write_text("git+https://github.com/inference-sh/sdk-python.git@0a1b2c\n")
    environment = await Environments(tmp_path / "environments", settings, ISOLATION).prepare(app, KERNEL)
    assert says(environment, "import tea; print(tea.version)") == "1.0"


@pytest.mark.slow
async def test_a_python_that_is_not_there_is_named(app: Path, environments: Environments) -> None:
    with pytest.raises(BuildFailed, match=r"asks for Python 3\.99, which is not installed.*uv python install 3\.99"):
        await environments.prepare(app, "python-3.99")


@pytest.mark.slow
async def test_without_a_version_it_is_one_that_is_there(app: Path, environments: Environments) -> None:
    environment = await environments.prepare(app, "python")
    found = tuple(map(int, environment.version.split(".")))
    assert found >= sys.version_info[:3]


async def test_packages_that_run_code_when_they_are_built_see_no_secret_of_the_server(
    app: Path, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    a_package_that_runs(
        app, f"import os\nopen({str(seen)!r}, 'w').write(chr(10).join(os.environ))\nraise SystemExit(1)\n"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("STEPWELL_SIGNING_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    settings = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    with pytest.raises(BuildFailed):
        await Environments(tmp_path / "environments", settings).prepare(app, KERNEL)
    names = seen.read_text().splitlines()
    assert {"PATH", "HTTPS_PROXY"} <= {*names}
    assert not {"OPENAI_API_KEY", "STEPWELL_SIGNING_KEY"} & {*names}


def a_package_that_runs(app: Path, code: str) -> None:
    """Let the app require a package beside it, that runs some code when it is built."""
    (app / "pot").mkdir()
    (app / "pot" / "backend.py").write_text(code)
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (app / "pot" / "pyproject.toml").write_text(build + '[project]\nname = "pot"\nversion = "1.0"\n')
    (app / "requirements.txt").write_text("./pot")


@pytest.mark.skipif(not ISOLATION.full, reason="this machine cannot confine processes")
async def test_packages_that_run_code_when_they_are_built_are_confined(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    code = f"""
        import os
        from pathlib import Path
        def tried(what):
            try:
                what()
            except OSError as err:
                return err.strerror
            return "done"
        raise SystemExit("|".join([
            tried(Path({str(tmp_path / "secret")!r}).read_text), tried(Path({str(tmp_path / "made")!r}).touch),
            tried(Path(f"/proc/{{os.getppid()}}/environ").read_text), tried(Path("beside").touch),
            tried(Path("/tmp/private").touch), tried(Path({str(Path.home())!r}).iterdir().__next__),
        ]))
    """
    a_package_that_runs(app, textwrap.dedent(code))
    with pytest.raises(BuildFailed) as raised:
        await environments.prepare(app, KERNEL)
    found = next(line for line in str(raised.value).splitlines() if "|" in line).strip().split("|")
    assert found[0] in ("Permission denied", "No such file or directory")
    assert found[1] in ("Permission denied", "No such file or directory", "done")
    assert found[3:5] == ["done", "done"]
    assert found[5] == "Permission denied"
    assert not (tmp_path / "made").exists()
    assert not (app / "pot" / "beside").exists()
    assert not Path("/tmp/private").exists()


async def test_the_password_of_an_index_is_not_told(
    app: Path, environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    (app / "requirements.txt").write_text("--index-url http://me:hunter2@127.0.0.1:1/simple\nnowhere-to-be-found")
    told: list[str] = []
    settings = EnvironmentSettings()
    with pytest.raises(BuildFailed) as raised:
        await Environments(environments._folder, settings).prepare(app, KERNEL, progress=told.append)
    assert "127.0.0.1" in str(raised.value)
    assert "hunter2" not in str(raised.value) + "".join(told)


async def test_settings_of_a_project_around_the_data_folder_do_not_count(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n[tool.uv]\nno-binary = true\n')
    (tmp_path / "uv.toml").write_text("no-binary = true\n")
    (app / "requirements.txt").write_text("tea")
    await environments.prepare(app, KERNEL)


async def test_unused_environments_are_listed_and_removed(
    app: Path, tmp_path: Path, environments: Environments
) -> None:
    found = {}
    for version in ("1.0", "2.0"):
        (app / "requirements.txt").write_text(f"tea=={version}")
        found[version] = await environments.prepare(app, KERNEL)
    os.utime(found["2.0"].directory / READY, (1000, 1000))
    least, most = environments.kept()
    assert (least.key, most.key) == (found["2.0"].key, found["1.0"].key)
    assert (least.used_at_s, least.requirements) == (1000, ("tea==2.0", "msgpack"))
    assert least.kernel == f"python-{found['2.0'].version}"
    assert least.size_bytes > 1000
    assert abs(most.used_at_s - time.time()) < 100
    with found["2.0"].hold():
        assert not environments.remove(least.key)
    assert environments.remove(least.key)
    assert not environments.remove(least.key)
    assert not environments.remove("../app")
    assert [kept.key for kept in environments.kept()] == [most.key]
    (app / "requirements.txt").write_text("tea==2.0")
    assert await environments.prepare(app, KERNEL) == found["2.0"]
    assert environments.kept()[-1].used_at_s > 1000


@pytest.mark.parametrize(
    ("written", "missing"),
    [
        ("", ()),
        ("# nothing\n\n", ()),
        ("bash\ndpkg\n", ()),
        ("no-such-1  # comment\nbash=5.2\nno-such-2=1.0\nno-such-1\n", ("no-such-1", "no-such-2")),
        ("libc6\n", ()),
        ("-o Dangerous::Option\n", ()),
    ],
)  # fmt: skip
async def test_missing_packages_of_the_system_are_named(app: Path, written: str, missing: tuple[str, ...]) -> None:
    (app / "packages.txt").write_text(written)
    assert await missing_packages(app) == missing


async def test_they_are_a_warning_and_never_installed(app: Path, environments: Environments) -> None:
    (app / "packages.txt").write_text("no-such-thing-1\n")
    told: list[str] = []
    environment = await environments.prepare(app, KERNEL, progress=told.append)
    (warning,) = environment.warnings
    assert "not installed: no-such-thing-1 (`apt-get install no-such-thing-1`)" in warning
    assert f"warning: {warning}" in told


def a_node_package(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(
        f'{{"name": "{name}", "version": "1.0.0", "type": "module", "main": "index.js"}}'
    )
    (folder / "index.js").write_text("export const brewed = 'green'\n")


def node(arguments: Sequence[str | Path]) -> str:
    return subprocess.run(["node", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
async def test_an_app_in_javascript_gets_its_packages_of_npm(app: Path, tmp_path: Path) -> None:
    a_node_package(tmp_path / "tea", "tea")
    (app / "package.json").write_text(f'{{"type": "module", "dependencies": {{"tea": "file:{tmp_path / "tea"}"}}}}')
    (app / "inference.js").write_text("import { brewed } from 'tea'; console.log(brewed)\n")
    app.chmod(0o555)
    environments = Environments(tmp_path / "environments", EnvironmentSettings(offline=True), ISOLATION)
    environment = await environments.prepare(app, "node")
    assert node([app / "inference.js"]) == "green"
    assert app.stat().st_mode & 0o777 == 0o555
    assert (await environments.prepare(app, "node")).key == environment.key
    assert environments.remove(environment.key)
    await environments.prepare(app, "node")
    assert node([app / "inference.js"]) == "green"


async def test_an_app_in_javascript_without_packages_needs_no_npm(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = Environments(tmp_path / "environments")
    environment = await environments.prepare(app, "node-2")
    assert environment.executable.name == "node"
    assert environment.warnings == ()
    newer = await environments.prepare(app, "node-999")
    assert "asks for Node 999, and this machine has" in newer.warnings[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match=r"asks for Node 22, which is not installed"):
        await environments.prepare(app, "node-22")


async def test_npm_says_why_it_fails(app: Path, tmp_path: Path) -> None:
    (app / "package.json").write_text('{"dependencies": {"no-such-package-of-ours": "1.0.0"}}')
    environments = Environments(tmp_path / "environments", EnvironmentSettings(offline=True))
    with pytest.raises(BuildFailed, match=r"(?s)npm cannot install the packages:.*npm error"):
        await environments.prepare(app, "node")
