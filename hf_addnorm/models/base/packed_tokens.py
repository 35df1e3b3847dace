"""A batch without its padding: the real tokens alone, one sequence behind the other."""

from functools import cached_property
from itertools import accumulate, groupby

import torch


class PackedTokens:
    """Where each token of a packed batch `[1, total, ...]` stands in the batch `[batch, seq, ...]` with padding.

        [batch, seq, ...] -> pack -> [1, total, ...] -> unpack -> [batch, seq, ...], 0 where there was padding

    The sequences are in the order of their lengths, so that those of one length lie side by side.

    Args:
        real (`torch.Tensor`): [batch, seq], true for a real token; at least one is.
        begins (`torch.Tensor`, *optional*): [batch, seq], true where a sequence begins; a row begins one in any case.
            By default a row is a sequence.
        first_only (`bool`): whether of the last layer no more than the first token of each sequence is asked for.
    """

    def __init__(self, real: torch.Tensor, begins: torch.Tensor | None = None, first_only: bool = False):
        self.shape, self.first_only = real.shape, first_only
        first = torch.zeros_like(real)
        first[:, 0] = True
        sequences = (first if begins is None else first | begins).flatten().cumsum(0) - 1
        places = real.flatten().nonzero().squeeze(1)
        of_token = sequences[places]
        counts, by_length = torch.bincount(of_token).sort(stable=True)
        rank = torch.empty_like(by_length)
        rank[by_length] = torch.arange(len(by_length), device=real.device)
        # of each token, the place that it has among all of the batch
        self.places = places[torch.argsort(rank[of_token], stable=True)]
        self.lengths: list[int] = [count for count in counts.tolist() if count]

    @property
    def total(self) -> int:
        """The number of tokens."""
        return len(self.places)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """[1, total, ...] of `x` [batch, seq, ...]."""
        return x.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, seq, ...] of `x` [1, total, ...], with 0 where there was padding; or of what `firsts` gives."""
        return _placed(x, self.places if x.shape[1] == self.total else self.places[self.begins], self.shape)

    def firsts(self, x: torch.Tensor) -> torch.Tensor:
        """[1, sequences, ...], the first token of each sequence of `x` [1, total, ...]."""
        return x.index_select(1, self.begins)

    def per_token(self, of_sequences: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What each sequence has [sequences], for each token of `x`: [1, total, 1, ...] or [1, sequences, 1, ...]."""
        values = of_sequences[self.of_token] if x.shape[1] == self.total else of_sequences
        return values.view(1, -1, *[1] * (x.dim() - 2))

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """The length and the number of the sequences that are of one length, in order."""
        return [(length, len(list(alike))) for length, alike in groupby(self.lengths)]

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Where each sequence begins in the packed batch, and where the last one ends: [sequences + 1], int32."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.places.device)

    @cached_property
    def begins(self) -> torch.Tensor:
        """Where each sequence begins in the packed batch: [sequences]."""
        return self.bounds[:-1].long()

    @cached_property
    def columns(self) -> torch.Tensor:
        """Of each token, how many places it stands behind the first real one of its sequence: [total]."""
        counts = torch.tensor(self.lengths, device=self.places.device)
        return self.places - self.places[self.begins].repeat_interleave(counts)

    @cached_property
    def is_gapless(self) -> bool:
        """Whether there is no padding between the tokens of any sequence."""
        ends = self.bounds[1:].long() - 1
        return self.columns[ends].tolist() == [length - 1 for length in self.lengths]

    @cached_property
    def of_token(self) -> torch.Tensor:
        """The number of each token's sequence in the packed batch: [total]."""
        counts = torch.tensor(self.lengths, device=self.places.device)
        return torch.arange(len(self.lengths), device=self.places.device).repeat_interleave(counts)

    @cached_property
    def rows(self) -> torch.Tensor:
        """[sequences, longest], a row for each sequence, true for a real token."""
        return self.to_rows(torch.ones(1, self.total, dtype=torch.bool, device=self.places.device))

    def to_rows(self, x: torch.Tensor) -> torch.Tensor:
        """[sequences, longest, ...] of `x` [1, total, ...]: a row for each sequence, which begins with it."""
        return _placed(x, self.of_token * self.longest + self.columns, torch.Size((len(self.lengths), self.longest)))

    def from_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The opposite of `to_rows`."""
        return x.flatten(0, 1).index_select(0, self.of_token * self.longest + self.columns).unsqueeze(0)

    @cached_property
    def longest(self) -> int:
        """Places from the first to the last token of a sequence, at most."""
        return int(self.columns.max()) + 1


class FirstTokens:
    """In a batch with its padding: of the last layer no more than the first token of each row is asked for.

    [batch, seq, ...] -> firsts -> [batch, 1, ...]
    """

    first_only = True

    def firsts(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 1, ...] of `x` [batch, seq, ...]."""
        return x[:, :1]

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """What a head is given, which reads the first token alone: `x` as it is."""
        return x


def _placed(x: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[*shape, ...] with the tokens of `x` [1, total, ...] at some places, and 0 elsewhere."""
    tokens = x.squeeze(0)
    return tokens.new_zeros(shape.numel(), *tokens.shape[1:]).index_copy(0, places, tokens).view(*shape, *x.shape[2:])
