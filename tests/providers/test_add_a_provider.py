"""docs/add-a-provider.md: its blocks, applied to a copy of the package, make a provider that works and is tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.adapters import REPOSITORY, clean_environment

PAGE = (REPOSITORY / "docs" / "add-a-provider.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^File `(?P<path>[^`]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
COPIED = ("multiembed", "tests/conftest.py", "tests/support", "tests/fixtures", "tests/providers/test_providers.py")


def patched(source, diff):
    """The source with the lines of a diff changed."""
    lines = [(line[:1], line[1:]) for line in diff.splitlines(keepends=True)]
    old = "".join(line for sign, line in lines if sign != "+")
    assert source.count(old) == 1, diff
    return source.replace(old, "".join(line for sign, line in lines if sign != "-"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy of the repository in which the page was followed, and the example that tries it."""
    root, example, path = tmp_path_factory.mktemp("repository"), None, None
    for name in COPIED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    for block in BLOCK.finditer(PAGE):
        path = root / block["path"] if block["path"] else path
        if block["language"] == "diff":
            path.write_text(patched(path.read_text(encoding="utf-8"), block["text"]), encoding="utf-8")
        elif block["path"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["text"], encoding="utf-8")
        else:
            example = block["text"]
    return root, example


def run(root, *arguments):
    environment = clean_environment(
        {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    )
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_page_names_no_more_than_four_places():
    places = {
        path.rpartition("/")[0] if "fixtures" in path else path for path in re.findall(r"^File `(.+)`:", PAGE, re.M)
    }
    assert places == {
        "multiembed/providers/acme.py",
        "multiembed/providers/__init__.py",
        "multiembed/simulator/formats/acme.py",
        "tests/fixtures/acme",
    }


def test_page_example_embeds_through_the_simulator(repository):
    root, example = repository
    result = run(root, "-W", "error", "-c", example)
    assert result.stderr == ""
    assert result.stdout.strip() == re.search(r"# (\(.*)$", example, re.MULTILINE)[1]


def test_page_provider_passes_the_tests_of_every_provider(repository):
    root, _ = repository
    result = run(
        root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "acme", "tests/providers/test_providers.py"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 12
