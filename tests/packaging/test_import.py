"""Importing merak: what a mismatch says, what is loaded late, what a missing extra says."""

from __future__ import annotations

import pytest

import merak
from merak import _extras
from tests.packaging.python import output, run


def test_another_torch_than_the_one_built_for_names_both_and_the_command() -> None:
    done = run("import torch; torch.__version__ = '2.99.1'; import merak")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: merak was built for torch 2.")
    assert "but torch 2.99.1 is installed" in message
    assert "pip install 'torch==2." in message
    assert "--no-build-isolation" in message


def test_without_a_build_the_command_that_builds_is_named() -> None:
    done = run("import sys; sys.modules['merak._build_info'] = None; import merak")
    assert done.returncode != 0
    assert "ImportError: merak's extension module has not been built" in done.stderr
    assert "make build" in done.stderr


def test_rooms_are_imported_when_first_used() -> None:
    code = "import sys, merak; before = 'merak.backend' in sys.modules; merak.backend; print(before, merak.backend)"
    assert output(code).startswith("False <module 'merak.backend'")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'merak' has no attribute 'cellar'"):
        merak.__getattr__("cellar")


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    with pytest.raises(ImportError, match=r"pip install --no-build-isolation '\.\[viz\]'"):
        _extras.require("no_such_package.pictures", extra="viz")


def test_an_extra_that_is_there_is_returned() -> None:
    assert _extras.require("json.decoder", extra="viz").JSONDecoder
