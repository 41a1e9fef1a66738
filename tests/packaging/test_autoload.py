"""torch finds the backend by its name, whatever is imported first, and is never harmed by us."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

import pytest
from torch.distributed.distributed_c10d import Backend

import _merak_autoload
from merak._torch_compat import torch_minor
from tests.packaging.python import output, run

LAZY_LOOKUP = tuple(map(int, torch_minor().split("."))) >= (2, 14)

# Goes before code that starts groups of one rank.
ONE_RANK = """
from datetime import timedelta
import sys
import torch.distributed as dist
def start(name):
    dist.init_process_group(name, store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=20))
"""


@pytest.mark.parametrize("group", ["torch.backends", "torch.distributed.backends"])
def test_both_entry_points_are_declared(group: str) -> None:
    (entry,) = entry_points(group=group, name="merak")
    assert entry.load() is _merak_autoload.register


def test_importing_torch_does_not_import_merak() -> None:
    loaded = output("import torch, sys; print([m for m in sys.modules if m.split('.')[0] == 'merak'])")
    assert loaded == "[]"


@pytest.mark.parametrize("imports", ["import merak, torch", "import torch, merak", "import _merak_autoload, torch"])
def test_any_order_of_imports_registers_the_backend(imports: str) -> None:
    assert output(f"{imports}; import torch.distributed as dist; print(dist.Backend.MERAK)") == "merak"


def test_a_group_starts_without_importing_merak() -> None:
    assert output(ONE_RANK + "start('merak'); print(dist.get_backend())") == "merak"


@pytest.mark.skipif(not LAZY_LOOKUP, reason="torch looks names up lazily from 2.14 on")
def test_a_group_starts_without_device_autoloading() -> None:
    code = ONE_RANK + "start('merak'); print(dist.get_backend())"
    assert output(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "merak"


def test_import_merak_registers_without_device_autoloading() -> None:
    code = "import merak, torch.distributed as dist; print('MERAK' in dir(dist.Backend))"
    assert output(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "True"


def test_an_error_in_the_creator_reaches_the_user_and_harms_nothing_else() -> None:
    code = """
import merak.backend
def fail(backend_options, group_options):
    raise ValueError("no such wire")
merak.backend.create = fail
try:
    start("merak")
except ValueError as error:
    print(error)
start("gloo")
print(dist.get_backend())
"""
    assert output(ONE_RANK + code).splitlines() == ["no such wire", "gloo"]


def test_a_missing_extension_module_is_reported_when_a_group_is_created() -> None:
    done = run(ONE_RANK + "sys.modules['merak._C'] = None; start('merak')")
    assert done.returncode != 0
    assert "import of merak._C halted" in done.stderr


def test_registering_twice_changes_nothing() -> None:
    before = Backend._plugins["MERAK"]
    _merak_autoload.register()
    assert Backend._plugins["MERAK"] is before


def test_an_error_while_registering_is_logged_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("another torch")

    monkeypatch.delattr(Backend, "MERAK")
    monkeypatch.setattr(Backend, "register_backend", fail)
    with caplog.at_level(logging.WARNING, logger="merak"):
        _merak_autoload.register()
    assert "could not be registered" in caplog.text
