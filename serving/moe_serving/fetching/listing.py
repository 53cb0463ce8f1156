"""What a checkpoint that is kept elsewhere consists of, as a node's cache remembers it. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace

from moe_serving.fetching.files import RemoteFile


@dataclass(frozen=True, slots=True)
class Listing:
    """Of one checkpoint.

    Attributes:
        small: bytes of all that is no weights.
        weights: their files.
        in_parts: processes have the files with weights that they need; otherwise each needs all.
        wanted: names of the weights that processes of this node needed so far.
        doubted: something could not be had as it says, so who keeps the checkpoint is asked again.
    """

    small: int
    weights: tuple[RemoteFile, ...]
    in_parts: bool
    wanted: frozenset[str] = frozenset()
    doubted: bool = False

    @property
    def size(self) -> int:
        """Bytes that this node is to have."""
        return self.small + sum(file.size for file in self.weights if file.name in self.wanted)

    def wanting(self, names: Collection[str]) -> Listing:
        """With more that is needed."""
        return replace(self, wanted=self.wanted.union(names))

    def dump(self) -> str:
        """As text."""
        return json.dumps(
            {
                "small": self.small,
                "weights": [[file.name, file.size, file.sha256] for file in self.weights],
                "in_parts": self.in_parts,
                "wanted": sorted(self.wanted),
                "doubted": self.doubted,
            }
        )

    @classmethod
    def load(cls, text: str) -> Listing:
        """Of ``dump``.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        told = json.loads(text)
        weights = tuple(RemoteFile(name, size, sha256) for name, size, sha256 in told["weights"])
        return cls(told["small"], weights, told["in_parts"], frozenset(told["wanted"]), told["doubted"])
