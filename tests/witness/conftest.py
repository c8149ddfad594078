"""What the witnesses share."""

import os
import pathlib

import pytest

from _browser import chromium, tabs

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def vectors() -> pathlib.Path:
    """The folder of the golden vectors."""
    return ROOT / "tests" / "vectors"


@pytest.fixture(scope="session")
def arqon() -> str:
    """The built `arqon` program; tests/run.sh builds it and says where."""
    program = os.environ.get("TEST_ARQON")
    assert program, "TEST_ARQON names no program: run this through ./tests/run.sh python"
    return program


@pytest.fixture(scope="module")
def program():
    with chromium() as open_page:
        yield open_page


@pytest.fixture
def browser(program):
    with tabs(program) as open_page:
        yield open_page
