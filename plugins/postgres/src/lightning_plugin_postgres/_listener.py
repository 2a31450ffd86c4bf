"""The listener: hears at once what other servers commit, where the URL asks for it with `notify=on`."""

from __future__ import annotations

import queue
import threading
from typing import Final

import psycopg

from agentlightning.store.backend import Job
from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._connection import connect
from lightning_plugin_postgres._writer import Order

_LISTEN_S: Final = 0.2  # before it looks whether it should stop
_RETRY_S: Final = 0.5


class Listener:
    """Waits for `NOTIFY` and tells the writer to look around. It is a hint: the writer looks by itself, too."""

    def __init__(self, address: Address, jobs: queue.SimpleQueue[Job | Order]) -> None:
        self._address = address
        self._channel = address.channel
        self._jobs = jobs
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends `run`, from another thread."""
        self._stopping.set()

    def run(self) -> None:
        """Listens until it is stopped."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.Error:  # the writer reports that the server is away
                self._stopping.wait(_RETRY_S)

    def _listen(self) -> None:
        with connect(self._address, writing=False) as connection:
            connection.execute(f'LISTEN "{self._channel}"'.encode())
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=_LISTEN_S):
                    self._jobs.put(Order.LOOK)
