"""The tokens that a model has generated after a batch of prompts, and which of them have activations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probekit._tokens import Tokens

__all__ = ["Generated"]


@dataclass(frozen=True)
class Generated:
    """A batch of prompts and the answers to them, on the CPU.

    Attributes:
        token_ids: (sample, position): prompts, padded on the left, then answers, padded on the right.
        real: (sample, position): which of the tokens are no padding.
        prompt: the number of positions that the prompts take.
    """

    token_ids: Tensor
    real: Tensor
    prompt: int

    @classmethod
    def of(cls, token_ids: Tensor, mask: Tensor, ends: Collection[int]) -> Generated:
        """What the model returned for prompts with this mask; an answer's last token is the first among `ends`."""
        token_ids, mask = token_ids.cpu(), mask.cpu() != 0
        end = torch.isin(token_ids[:, mask.shape[1] :], torch.tensor(sorted(ends), dtype=torch.int64))
        before = end.cumsum(1) - end.to(torch.int64)
        return cls(token_ids, torch.cat([mask, before == 0], 1), mask.shape[1])

    @cached_property
    def fed(self) -> Tensor:
        """(sample, position): which tokens but the last the model was given, and so gave activations for.

        The last token of each answer is given to it only where another answer of the batch is longer: it never counts.
        """
        return self.real[:, :-1] & self.real[:, 1:]

    @property
    def answers(self) -> list[list[int]]:
        """The token ids of each answer, its last token among them."""
        pairs = zip(self.token_ids[:, self.prompt :], self.real[:, self.prompt :], strict=True)
        return [ids[real].tolist() for ids, real in pairs]

    @property
    def tokens(self) -> Tokens:
        """What is known of the tokens that have activations: their ids, and which of them were generated."""
        token_ids = self.token_ids[:, :-1][self.fed].numpy()
        generated = (torch.arange(self.fed.shape[1]) >= self.prompt).expand_as(self.fed)[self.fed].numpy()
        return Tokens(self.fed.sum(1).numpy(), {"token_id": token_ids, "generated": generated})
