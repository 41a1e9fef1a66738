"""The command `merak`."""

from __future__ import annotations

import pytest

from merak import cli
from tests.packaging.python import output


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text and subcommand.help in text for name, subcommand in cli.SUBCOMMANDS.items())


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_wrong_use_exits_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_subcommand_has_its_own_help_and_runs_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    assert f"usage: merak {name}" in capsys.readouterr().out


def test_help_loads_no_room() -> None:
    code = """
    import sys
    from merak import cli
    try:
        cli.main(["--help"])
    except SystemExit:
        print("merak.backend" in sys.modules)
    """
    assert output(code).splitlines()[-1] == "False"
