"""docs/environment.md says what the table of environment variables says."""

from __future__ import annotations

from tools import environment_page


def test_the_page_is_up_to_date() -> None:
    assert environment_page.PAGE.read_text() == environment_page.text(), "run `make docs`"
