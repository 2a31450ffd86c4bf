"""The weights of resource sets: saved with the set that proposes them, and put back into the learner."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import ResourceRecord, ResourceSet, ResourceState, Weights

if TYPE_CHECKING:
    from agentlightning._session import Session


class SetWeights:
    """What a run's learner holds, by resource set. Sets of a run without a learner have no weights.

    Args:
        session: The run.

    Attributes:
        held: Where the weights are that the learner has; empty if they are those of no set.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.held = ""

    def among(self, chosen: ResourceSet) -> bool:
        """Whether a set has weights of this run's model."""
        session = self._session
        if session.engine is None or session.learner is None or session.engine.model not in chosen.resources:
            return False
        return chosen.resources[session.engine.model].kind == Weights.kind

    def lost(self, chosen: ResourceSet) -> bool:
        """Whether a set has weights that nobody can load any more."""
        return self.among(chosen) and not self._state(chosen).is_dir()

    async def load(self, chosen: ResourceSet) -> None:
        """Gives the learner the weights of a set, if it has any and the learner has others."""
        if not self.among(chosen) or self.held == (weights := self._weights(chosen)).path:
            return
        session = self._session
        async with session.weight_update():
            await session.load_weights(
                self._state(chosen),
                origin=f"resource set {chosen.version} ({chosen.id})",
                was=weights.version if chosen.run_id == session.run.id else None,
            )
        self.held = weights.path

    async def propose(self, base: ResourceSet | None, *, step: int, state: Path | None = None) -> ResourceSet:
        """Publishes the learner's weights as a candidate, beside whatever else is in a set.

        Args:
            base: The set.
            step: Of the run.
            state: Where the learner's state was saved already; None saves it beside the weights.
        """
        session = self._session
        if session.learner is None or session.engine is None:
            raise ConfigError("this run has no engine that learns, so there are no weights to propose")
        place = session.directory / "weights" / f"{step:06d}-{session.engine.version}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        await session.learner.save_model(place)
        if state is None:
            state = place / "state"
            state.mkdir()
            await session.learner.save_state(state)
        version = session.engine.version
        weights = ResourceRecord.of(Weights(path=str(place), version=version, state=str(state)))
        live = await session.store.resources.live()
        proposed = await session.store.resources.publish(
            {**(base.resources if base else {}), session.engine.model: weights},
            parent=live.id if live else None,
            state=ResourceState.CANDIDATE,
            run_id=session.run.id,
            step=step,
        )
        self.held = str(place)
        return proposed

    async def deliver(self) -> None:
        """Puts what the learner has come to live, beside what is live already; nothing without a learner."""
        session = self._session
        if session.learner is None or session.engine is None:
            return
        checkpoint = session.run.checkpoint
        state = (
            Path(checkpoint.path) if checkpoint and session.saved_version == session.engine.version else None
        )
        live = await session.store.resources.live()
        made = await self.propose(live, step=checkpoint.step if checkpoint else 0, state=state)
        await session.store.resources.move(made.id, ResourceState.LIVE)

    async def forget(self, served: list[ResourceSet]) -> None:
        """Deletes the weights of this run, but for those of some sets and of the sets that they were made from."""
        parents = [await self._session.store.resources.get(one.parent) for one in served if one.parent]
        kept = {str(self._place(one)) for one in [*served, *parents] if self.among(one)}
        for place in (self._session.directory / "weights").glob("*"):
            if str(place) not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, chosen: ResourceSet) -> Path:
        return Path(self._weights(chosen).path)

    def _state(self, chosen: ResourceSet) -> Path:
        """What the learner goes on from."""
        weights = self._weights(chosen)
        return Path(weights.state or weights.path)

    def _weights(self, chosen: ResourceSet) -> Weights:
        if self._session.engine is None:
            raise ConfigError(f"this run has no engine for the weights of set {chosen.version}")
        return msgspec.convert(chosen.resources[self._session.engine.model].value, type=Weights)
