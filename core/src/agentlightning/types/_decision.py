"""Decision policies: what `agl.decide` chooses by, as plain compact data."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, ClassVar, Final

import msgspec

_ENTRY: Final = struct.Struct("<If")
"""A weight as it is packed: index, value."""
SCHEME: Final = 1
"""How features are named and hashed; weights of one scheme mean nothing under another."""


class DecisionPolicy(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A softmax over options, linear in hashed features of context and option.

    The probability of an option is `(1 - epsilon) softmax(score / temperature) + epsilon / n` for `n` options, so that
    each of them is explored with at least `epsilon / n`. Options and contexts never seen before score by what they
    share with those seen, and 0 if that is nothing.

    Attributes:
        version: Rises with each update of the policy that made it.
        weights: Index (4 bytes) and value (4 bytes) of each weight that is not 0, little-endian.
        bits: There are `2**bits` weights.
        points: Names of the decisions it takes; empty is all of them.
        epsilon: Share of decisions that are spread evenly over the options.
        temperature: Divides the scores.
        greedy: Whether rollouts that are not for training take the most probable option.
        scheme: How features are hashed.
    """

    kind: ClassVar[str] = "decision_policy"
    version: int
    weights: bytes = b""
    bits: Annotated[int, msgspec.Meta(ge=1, le=24)] = 12
    points: tuple[str, ...] = ()
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    greedy: bool = True
    scheme: int = SCHEME

    def __post_init__(self) -> None:
        if self.scheme != SCHEME:
            raise ValueError(
                f"a decision policy of scheme {self.scheme!r} cannot be read, this version has scheme {SCHEME}; "
                "train it again, or install the version that made it"
            )
        if len(self.weights) % _ENTRY.size:
            raise ValueError(
                f"weights of a decision policy are {_ENTRY.size} bytes each, got {len(self.weights)} bytes in all; "
                "pack them with pack_weights"
            )
        if not (0 <= self.epsilon <= 1 and 0 < self.temperature < math.inf and 1 <= self.bits <= 24):
            raise ValueError(
                f"a decision policy has 0 <= epsilon <= 1, temperature > 0 and 1 to 24 bits, got epsilon "
                f"{self.epsilon!r}, temperature {self.temperature!r} and {self.bits!r} bits"
            )
        for index, value in _ENTRY.iter_unpack(self.weights):
            if index >> self.bits or not math.isfinite(value):
                raise ValueError(
                    f"weight {index} of a decision policy is {value!r}; there are {1 << self.bits} finite ones"
                )

    @cached_property
    def table(self) -> list[float]:
        """All its weights, `[2**bits]`; not to be changed."""
        table = [0.0] * (1 << self.bits)
        for index, value in _ENTRY.iter_unpack(self.weights):
            table[index] = value
        return table


def pack_weights(weights: Mapping[int, float]) -> bytes:
    """Weights by index as `DecisionPolicy.weights` holds them: those that are not 0, in order, as float32."""
    return b"".join(_ENTRY.pack(index, value) for index, value in sorted(weights.items()) if value)
