"""A run whose process has died is known at once on the same machine."""

import os
import socket
import subprocess
import sys

import pytest

from agentlightning._owner import owner_is_gone, owner_name


def test_a_living_process_is_not_gone() -> None:
    assert not owner_is_gone(owner_name())


def test_a_process_that_has_ended_is_gone() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    assert owner_is_gone(f"{socket.gethostname()}:{int(ended.stdout)}")


@pytest.mark.parametrize("owner", [f"elsewhere:{os.getpid()}", "elsewhere:999999999", "no-number:x", "plain"])
def test_nothing_is_said_of_other_machines(owner: str) -> None:
    assert not owner_is_gone(owner)
