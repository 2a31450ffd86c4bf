"""Resources: what an algorithm improves, in immutable versioned sets."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

import msgspec

from agentlightning.types._decision import DecisionPolicy
from agentlightning.types._rollout import Json


class ResourceState(StrEnum):
    """How far a resource set has come."""

    CANDIDATE = "candidate"
    CANARY = "canary"
    LIVE = "live"
    RETIRED = "retired"


@runtime_checkable
class Resource(Protocol):
    """What a resource kind is: a frozen struct with a `kind`."""

    kind: ClassVar[str]


class _PlainFormatter(string.Formatter):
    """Fills in names only: a template is data, so it must not reach into the values' attributes."""

    def get_field(
        self, field_name: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, str]:
        del args  # positional placeholders are no names
        if not field_name.isidentifier():
            raise ValueError(
                f"a placeholder must be a name, got {{{field_name}}}; write {{{{ and }}}} for braces"
            )
        return kwargs[field_name], field_name


class PromptTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt with `{placeholders}`.

    Attributes:
        template: The text; placeholders are Python identifiers in braces, `{{` and `}}` are literal braces.
    """

    kind: ClassVar[str] = "prompt"
    template: str

    def render(self, **values: object) -> str:
        """Fills in the placeholders.

        Raises:
            KeyError: A placeholder has no value.
            ValueError: A placeholder is more than a name.
        """
        return _PlainFormatter().vformat(self.template, (), values)


class ModelEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model an agent talks to.

    Attributes:
        model: Name the upstream knows it by.
        base_url: OpenAI-compatible base URL; None is the gateway's default upstream.
        temperature: Sampling temperature; None leaves the agent's own.
        max_tokens: Most tokens per answer; None leaves the agent's own.
    """

    kind: ClassVar[str] = "model"
    model: str
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Model weights on disk.

    Attributes:
        path: Hugging Face directory: safetensors, config and tokenizer, ready to be served.
        version: Policy version they are.
        state: Directory of the learner's state, for training to go on from; empty is none.
    """

    kind: ClassVar[str] = "weights"
    path: str
    version: int
    state: str = ""


class ResourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as the store keeps it: open kinds, plain data, nothing to execute."""

    kind: str
    value: dict[str, Json]

    @classmethod
    def of(cls, resource: Resource) -> ResourceRecord:
        """Takes a resource apart into its record."""
        value = msgspec.to_builtins(resource)
        return cls(kind=resource.kind, value=value)

    def load(self, kinds: Mapping[str, type[Resource]]) -> Resource:
        """Puts the resource together again.

        Raises:
            KeyError: The kind is not among `kinds`.
            msgspec.ValidationError: The record does not fit its kind.
        """
        resource: Resource = msgspec.convert(self.value, type=kinds[self.kind])
        return resource


BUILTIN_KINDS: dict[str, type[Resource]] = {
    kind.kind: kind for kind in (PromptTemplate, ModelEndpoint, Weights, DecisionPolicy)
}


class ResourceSet(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable, versioned set of named resources.

    Attributes:
        version: Rises by one with each publish in the store.
        parent: Id of the set it was made from; None for a first one.
        weight: Share of leases a canary gets, 0 to 1.
        run_id: The run that made it, if any.
        step: The run's step that made it, if any.
    """

    id: str
    version: int
    resources: dict[str, ResourceRecord]
    parent: str | None
    state: ResourceState
    created_at: float
    weight: float = 0.0
    run_id: str | None = None
    step: int | None = None
