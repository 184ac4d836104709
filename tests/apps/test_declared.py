"""What is read of the code of an app without running it, and one file as an app."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from stepwell.apps.declared import Declared, directory_of, read_declared
from stepwell.apps.manifest import read_manifest
from stepwell.model.app import Needed, Resources, Scaling
from stepwell.model.errors import InvalidInput

WHOLE = '''
    # /// script
    # requires-python = ">=3.11"
    # dependencies = [
    #     "numpy>=2",
    # ]
    # ///
    from stepwell.apps import App as Base

    raise RuntimeError("this is never run")

    class _Shared(Base):
        secrets = ["KEY"]
        resources = {"ram": 1}

    class TextTools(_Shared):
        """Works on
        texts.

        More of it.
        """

        requirements = ("pillow",)
        resources = {"gpu": {"vram": "24GB"}, "ram": 8}
        scaling: dict = {"min": 1, "max": 2, "idle": 5}
'''


def read(folder: Path, code: str) -> Declared:
    file = folder / "text_tools.py"
    file.write_text(textwrap.dedent(code), encoding="utf-8")
    return read_declared(file)


def test_a_file_says_all_that_its_app_needs(tmp_path: Path) -> None:
    declared = read(tmp_path, WHOLE)
    assert declared.uses_base
    assert declared.requirements == ("numpy>=2", "pillow")
    with directory_of(tmp_path / "text_tools.py") as directory:
        manifest = read_manifest(directory)
        assert (directory / "inference.py").read_text() == textwrap.dedent(WHOLE)
    assert not directory.exists()
    assert (manifest.namespace, manifest.name, manifest.kernel) == ("", "text-tools", "python")
    assert manifest.description == "Works on texts."
    assert manifest.resources == Resources(gpus=1, vram_bytes=24_000_000_000, ram_bytes=8_000_000_000)
    assert manifest.scaling == Scaling(least=1, most=2, idle_ms=5000)
    assert manifest.secrets == (Needed(key="KEY"),)
    assert manifest.warnings == ()


def test_what_the_manifest_says_goes_before_what_the_code_does(tmp_path: Path) -> None:
    (tmp_path / "inference.py").write_text(textwrap.dedent(WHOLE))
    (tmp_path / "inf.yml").write_text("name: other\nresources: {ram: 2}\n")
    manifest = read_manifest(tmp_path)
    assert (manifest.name, manifest.resources.ram_bytes, manifest.resources.gpus) == ("other", 2_000_000_000, 0)
    assert manifest.scaling.most == 2


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from stepwell.apps import App\nclass OCRPage2(App): name = 'acme/ocr'", "acme/ocr"),
        ("from stepwell.apps import App\nclass OCRPage2(App): ...", "ocr-page2"),
        ("from stepwell import apps\nclass App(apps.LanguageModel): ...", "app"),
        ("import stepwell.apps\nclass Embed(stepwell.apps.Embeddings): ...", "embed"),
        ("import stepwell.apps as a\nclass Embed(a.App): ...\nclass Other: ...", "embed"),
        ("from stepwell.apps import App\nclass A(App): ...\nclass B(App): ...", None),
        ("from stepwell.apps import App\nclass A(make(App)[0].x, App): ...", "a"),
        ("class App:\n    name = compute()\n    resources = 5", None),
    ],
)
def test_the_class_of_the_app_is_found(tmp_path: Path, code: str, name: str | None) -> None:
    assert read(tmp_path, code).values.get("name") == name


@pytest.mark.parametrize(
    "code",
    ["def (", "class App", "\x00", "x = " + "(" * 100_000, "x = " + "a." * 100_000 + "b", "x = " + "-" * 100_000],
)
def test_what_is_no_python_declares_nothing(tmp_path: Path, code: str) -> None:
    assert read(tmp_path, f"from stepwell.apps import App\n{code}") == Declared()
    assert read_declared(tmp_path / "absent.py") == Declared()


@pytest.mark.parametrize(
    ("wanted", "kernel"),
    [(">=3.10", "python"), (">= 3.11", "python"), (">=3.12", "python-3.12"), ("==3.11.*", "python-3.11"), ("", None),
     (">=3.11,<4", None), ("3.11", None)],
)  # fmt: skip
def test_the_python_of_a_script(tmp_path: Path, wanted: str, kernel: str | None) -> None:
    code = f'# /// script\n# requires-python = "{wanted}"\n# ///\n'
    if kernel is None:
        with pytest.raises(InvalidInput, match=r"text_tools.py: requires-python: expected one version such as"):
            read(tmp_path, code)
    else:
        assert read(tmp_path, code).values == {"kernel": kernel}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("class A(App): requirements = [first, second]", r"line 2: A.requirements is read without running"),
        ("class A(App): requirements = 'numpy'", "requirements: expected a list of texts"),
        ("# /// script\n# dependencies = 5\n# ///\n", "dependencies: expected a list of texts"),
        ("# /// script\n# dependencies = [\n# ///\n", "`# /// script` cannot be read"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# a = 1\n# ///\n", "twice"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read(tmp_path, f"from stepwell.apps import App\n{code}")


def test_another_file_is_no_app(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"")
    with pytest.raises(InvalidInput, match="give a directory, or a file of Python"), directory_of(file):
        pass
    (tmp_path / "plain_tool.py").write_text("class App:\n    def run(self, given): ...\n")
    with directory_of(tmp_path / "plain_tool.py") as directory:
        assert read_manifest(directory).name == "plain-tool"
