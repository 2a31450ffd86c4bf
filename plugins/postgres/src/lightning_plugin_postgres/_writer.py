"""The writer: one thread that commits what waits in its queue together, and watches the store while idle."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

import psycopg

from agentlightning.errors import StoreUnavailable
from agentlightning.store.backend import (
    FORGET_INTERVAL_S,
    Changes,
    Job,
    Notifier,
    Unit,
    deliver,
    forget_keys,
    sweep,
)
from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._connection import Connection
from lightning_plugin_postgres._failures import Stale, is_away, is_contended, is_passing, unavailable
from lightning_plugin_postgres._link import Fate, Link
from lightning_plugin_postgres._tables import PostgresTables
from lightning_plugin_postgres._tasks import Ids, Task
from lightning_plugin_postgres._watch import Watch
from lightning_plugin_postgres._writing import Alone, Busy, Pace, Wanting, WriteSession

_LOG: Final = logging.getLogger(__name__)
_MOST_JOBS: Final = 256  # in one transaction
_MOST_ROUNDS: Final = 8  # of fetching, before what is left runs alone
_COMPANY: Final = 0.25  # of the last transaction's duration: how long company is waited for
_MOST_COMPANY_S: Final = 0.003
_ASK_AGAIN_S: Final = 0.05  # what became of a commit
_OLD_MARKERS: Final = "DELETE FROM commits WHERE at < clock_timestamp() - interval '1 day'"


class Order(Enum):
    """What may come through the writer's queue besides jobs."""

    LOOK = auto()
    STOP = auto()


class Writer:
    """Runs jobs in transactions: drain the queue, one transaction, one commit, then acknowledge all."""

    def __init__(
        self,
        connection: Connection,
        notifier: Notifier,
        *,
        address: Address,
        patience_s: float,
        clock: Callable[[], float] | None,
        new_id: Callable[[], str],
    ) -> None:
        self.jobs: queue.SimpleQueue[Job | Order] = queue.SimpleQueue()
        self._link = Link(connection, address)
        self._notifier = notifier
        self._address = address
        self._patience_s = patience_s
        self._clock = clock
        self._new_id = new_id
        self._watch = Watch(notifier)
        self._waiting: list[Task] = []
        self._forget_at = 0.0
        self._stopping = False
        self._company = 0
        self._company_s = 0.0

    def run(self) -> None:
        """Works until it is told to stop and all is done, then closes the connection."""
        while not self._stopping or self._waiting:
            tasks = self._next()
            if tasks:
                self._finish(tasks)
            if time.monotonic() >= self._watch.at:
                self._look_around()
        self._link.close()

    def _next(self) -> list[Task]:
        """What to do next; waits until there is something."""
        now = time.monotonic()
        tasks = [task for task in self._waiting if task.not_before <= now]
        self._waiting = [task for task in self._waiting if task.not_before > now]
        for task in tasks:
            task.waiting = False
        self._take(tasks, 0, until=now)
        if tasks:
            # the clients of the last commit will be back in a moment: who does not wait for them splits the
            # clients into two groups that wait for each other's commits
            self._take(tasks, self._company, until=time.monotonic() + self._company_s)
        if not tasks:
            wake_at = min([self._watch.at, *(task.not_before for task in self._waiting)])
            self._take(tasks, 1, until=wake_at)
        return tasks

    def _take(self, tasks: list[Task], count: int, *, until: float) -> None:
        """Takes what is in the queue, and waits for so many tasks."""
        while len(tasks) < _MOST_JOBS:
            missing = len(tasks) < count and not self._stopping
            try:
                order = self.jobs.get(missing, max(until - time.monotonic(), 0.0) if missing else None)
            except queue.Empty:
                break
            if order is Order.STOP:
                self._stopping = True
            elif order is Order.LOOK:
                self._watch.at = 0.0
                break
            elif not order.future.cancelled():
                tasks.append(Task(order, Ids(self._new_id), time.monotonic() + self._patience_s))

    def _finish(self, tasks: Sequence[Task]) -> None:
        """Runs tasks together, then alone those that need it; hands over what is done."""
        began = time.monotonic()
        together = [task for task in tasks if not task.alone]
        if together:
            self._transact(together)
        for task in tasks:
            if task.alone and not task.settled and not task.waiting:
                self._transact([task])
        self._waiting += [task for task in tasks if task.waiting]
        settled = [task.job for task in tasks if task.settled]
        queued = self.jobs.qsize()
        self._company = queued + len(settled) if queued else 0
        deliver(settled)
        self._company_s = min((time.monotonic() - began) * _COMPANY, _MOST_COMPANY_S)

    def _transact(self, tasks: Sequence[Task]) -> None:
        """Does tasks in one transaction. Then each is settled, waiting, or to be done alone."""
        done: list[Task] = []
        changes = Changes()
        try:
            with self._link.transaction() as session:
                whole = self._run(session, tasks, done=done, changes=changes)
                if whole:
                    self._tell(session, changes)
                    self._link.commit(session)
                else:
                    self._link.undo()
        except (psycopg.Error, Stale) as error:
            if not self._survives(error, tasks):
                return
        except Exception as error:  # noqa: BLE001 - who waits must learn of it, and others go on
            self._link.abandon()
            for task in tasks:
                task.settle(error)
            return
        self._link.acknowledge()
        for task in done:
            task.settle()
        if changes:
            self._notifier.notify(changes)

    def _run(
        self, session: WriteSession, tasks: Sequence[Task], *, done: list[Task], changes: Changes
    ) -> bool:
        """Does tasks; false if the one task that runs alone has to be undone."""
        tables = PostgresTables(session, self._address)
        alone = tasks[0].alone
        if not alone:
            for task in tasks:
                # only what it wishes for counts; what it says is heard in the transaction
                with contextlib.suppress(Exception):
                    task.job.operation(Unit(tables, 0.0, task.ids.from_start()))
                session.forget()
        now = session.begin()
        now = now if self._clock is None else self._clock()
        session.pace = Pace.ALONE
        swept = self._sweep(session, tables, now, changes)
        if not alone:
            session.pace = Pace.TOGETHER
        waiting = list(tasks)
        for _ in range(_MOST_ROUNDS):
            left = []
            for task in waiting:
                unit = Unit(tables, now, task.ids.from_start(), swept)
                if not self._try(task, session, unit, done=done):
                    left.append(task)
                elif task.job.error is None:
                    changes.add(unit.changes)
            waiting = left
            if not waiting:
                break
            session.fetch()
        for task in waiting:
            task.alone = True
        return not alone or (bool(done) and done[0].job.error is None)

    def _try(self, task: Task, session: WriteSession, unit: Unit, *, done: list[Task]) -> bool:
        """Runs an operation; false if it has to start over."""
        task.job.error = None
        try:
            task.job.result = task.job.operation(unit)
        except Wanting:
            session.forget()
            return False
        except Alone:
            task.alone = True
        except Busy as busy:
            self._put_off(task, self._locked(busy))
        except (psycopg.Error, Stale):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            task.job.error = error
            done.append(task)
        else:
            session.keep()
            done.append(task)
            return True
        session.forget()
        unit.changes.clear()
        return True

    def _sweep(self, session: WriteSession, tables: PostgresTables, now: float, changes: Changes) -> int:
        unit = Unit(tables, now, self._new_id)
        count = sweep(unit)
        if time.monotonic() >= self._forget_at:
            forget_keys(unit)
            session.execute(_OLD_MARKERS)
            self._forget_at = time.monotonic() + FORGET_INTERVAL_S
        session.keep()
        changes.add(unit.changes)
        return count

    def _tell(self, session: WriteSession, changes: Changes) -> None:
        if changes and self._address.notify:
            session.execute("SELECT pg_notify(%s, '')", (self._address.channel,))
            session.keep()

    def _locked(self, busy: Busy) -> StoreUnavailable:
        return StoreUnavailable(
            f"store {self._address.shown!r}: another session keeps {busy} locked; look for it in pg_stat_activity"
        )

    def _put_off(self, task: Task, error: Exception) -> None:
        if task.is_over:
            task.settle(error)
        else:
            task.wait()

    def _survives(self, error: Exception, tasks: Sequence[Task]) -> bool:
        """Whether a transaction was committed although it failed here; if not, what becomes of its tasks."""
        refusal = unavailable(error, self._address)
        fate = self._fate(error, until=max(task.until for task in tasks))
        if fate is Fate.COMMITTED:
            return True
        for task in tasks:
            if task.waiting or task.settled:
                continue
            if fate is None:
                task.settle(
                    StoreUnavailable(
                        f"{refusal}; whether this call was done is not known: look, or repeat it"
                    )
                )
            elif fate is Fate.ROLLED_BACK and len(tasks) > 1 and not is_contended(error):
                task.alone = True  # one of them may be to blame: the others need not share its fate
            elif fate is Fate.LOST or is_passing(error):
                self._put_off(task, refusal)
            else:
                task.settle(refusal)
        return False

    def _fate(self, error: Exception, *, until: float) -> Fate | None:
        """What became of a transaction; None if nobody could say in time."""
        while True:
            try:
                return self._link.recover(error)
            except psycopg.Error as away:
                error = away
            if time.monotonic() >= until:
                self._link.give_up()
                return None
            time.sleep(_ASK_AGAIN_S)

    def _look_around(self) -> None:
        try:
            if self._watch.look(self._link.open(), self._clock):
                self._transact_sweep()
        except psycopg.Error as error:
            if not is_away(error):  # nobody asked; of a server that is away, whoever asks next is told
                _LOG.warning("%s", unavailable(error, self._address))
            with contextlib.suppress(psycopg.Error):
                self._link.recover(error)
        except Exception:  # noqa: BLE001 - this thread serves others, and goes on
            _LOG.exception("looking for overdue work in %r failed", self._address.shown)
            self._link.abandon()
        self._watch.rest()

    def _transact_sweep(self) -> None:
        """Ends what is overdue."""
        changes = Changes()
        with self._link.transaction() as session:
            tables = PostgresTables(session, self._address)
            now = session.begin()
            session.pace = Pace.ALONE
            self._sweep(session, tables, now if self._clock is None else self._clock(), changes)
            self._tell(session, changes)
            self._link.commit(session)
        self._link.acknowledge()
        if changes:
            self._notifier.notify(changes)
