"""The decoding loop: a batch of prompts in; commits, timestep by timestep, and each sample's trace out."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.choose import choose
from horizons.decode.policies import policy_of
from horizons.decode.trace import Commits, Trace
from horizons.models.base import MaskedModel
from horizons.models.session import open_session

OnCommits = Callable[[Commits], None]


class Request(NamedTuple):
    """One sample to be generated."""

    sample: int  # its number
    question_id: str
    prompt_ids: list[int]
    seed: int  # of its noise


class Decoded(NamedTuple):
    """What became of one sample: for each timestep the positions it committed, ascending, and their tokens."""

    steps: list[tuple[list[int], list[int]]]
    forward_passes: int

    def output_ids(self, mask_token_id: int) -> list[int]:
        """The tokens up to the last committed position; the mask token where a position before it is still masked.

        That can only be behind an end-of-text token, at which the sample was done.
        """
        committed = {at: token for step in self.steps for at, token in zip(*step, strict=True)}
        return [committed.get(position, mask_token_id) for position in range(max(committed, default=-1) + 1)]


class NotFinite(Exception):
    """The model gave logits that are no prediction: NaN, +inf, or -inf for every token."""

    def __init__(self, question_id: str, timestep: int, position: int, found: float) -> None:
        what = "-inf for every token" if found == -math.inf else f"a logit of {found}"
        where = f"at timestep {timestep}, for position {position}"
        super().__init__(f"prompt {question_id!r}: the model gives {what} {where}")


@torch.inference_mode()
def decode_batch(
    model: MaskedModel,
    requests: Sequence[Request],
    settings: Generation,
    on_commits: OnCommits | None = None,
) -> list[Decoded]:
    """Generate for one batch, one forward pass a timestep.

    With `on_commits` every position is also predicted where a horizon needs it, and commits are handed over as they
    are made. With `stop_at_eos` a sample that has come to the end of its text leaves the batch. Raises NotFinite.
    """
    return _Batch(model, requests, settings, on_commits).run()


class _Batch:
    """A batch under way. Rows are those still in it."""

    def __init__(
        self,
        model: MaskedModel,
        requests: Sequence[Request],
        settings: Generation,
        on_commits: OnCommits | None,
    ) -> None:
        prompts = [request.prompt_ids for request in requests]
        self.model, self.settings, self.on_commits = model, settings, on_commits
        self.policy = policy_of(settings)
        seeds = [request.seed for request in requests]
        self.session = open_session(model, prompts, settings.max_tokens, seeds)
        self.free = None
        if settings.cfg_scale > 0:
            # The same canvases without their prompts, for classifier-free guidance.
            masked = [[model.mask_token_id] * len(ids) for ids in prompts]
            self.free = open_session(model, masked, settings.max_tokens, seeds)
        self.requests = list(requests)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.masked = self.session.region(self.policy.whole_blocks)
        self.ends = torch.full((len(requests),), self.masked.shape[1])  # where each text ends, as far as is known
        # Of a model that attends from block to block: the block that each row is in, and its timesteps before this one.
        self.blocks = self.passes = torch.full((len(requests),), -1)
        self.horizons = settings.horizons if on_commits is not None else [1]
        self.trace = Trace(self.horizons)
        self.history: list[_Step] = []
        self.unchecked: list[_Check] = []

    def run(self) -> list[Decoded]:
        """One timestep after the other until no position is masked."""
        order, timestep = list(self.requests), 0
        while self.requests:
            self._step(timestep)
            timestep += 1
            self._let_go(self._finished(timestep))
        self._check_finite()
        return self._decoded(order)

    def _step(self, timestep: int) -> None:
        asked = torch.zeros_like(self.masked)
        for horizon in self.horizons:
            asked |= self.policy.may_commit(self.masked, timestep, horizon - 1)
        asked &= self.session.reachable(self.masked)
        self._count_passes()
        rows, positions = asked.nonzero(as_tuple=True)
        logits = self.session.logits(rows, positions)
        self._note_extremes(timestep, rows, positions, logits)
        if self.on_commits is not None:
            self.trace.remember(timestep, asked, rows, positions, logits)
        candidates = self.policy.may_commit(self.masked, timestep, 0)[rows, positions]
        rows, positions = rows[candidates], positions[candidates]
        scores = self._scores(logits, candidates, rows, positions)
        mask = self.model.mask_token_id
        tokens = choose(scores, self.settings.temperature, mask, rows, self.generators)
        block_size = self.session.block_size
        offered = Candidates(rows, positions, scores, tokens, self.generators, mask, self.passes, block_size)
        if len(rows) and (chosen := self.policy.commit(timestep, offered)) is not None:
            rows, positions, tokens = rows[chosen], positions[chosen], tokens[chosen.to(tokens.device)]
        self._commit(timestep, rows, positions, tokens)

    def _count_passes(self) -> None:
        if self.session.block_size is not None:
            blocks = self.session.current_blocks(self.masked)
            self.passes = torch.where(blocks == self.blocks, self.passes + 1, 0)
            self.blocks = blocks

    def _scores(
        self, logits: torch.Tensor, candidates: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """What tokens are chosen from, (n, vocab_size), a copy: the logits of the candidates, after guidance."""
        index = candidates.nonzero().squeeze(1)  # on the CPU: a GPU would have to be waited for
        scores = logits.index_select(0, index.to(logits.device))
        if self.free is None:
            return scores
        free = self.free.logits(rows, positions)
        return free + (self.settings.cfg_scale + 1) * (scores - free)

    def _commit(self, timestep: int, rows: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> None:
        if len(rows):
            for session in (self.session, self.free):
                if session is not None:
                    session.reveal(rows, positions, tokens)
            self.masked[rows, positions] = False
        if self.policy.whole_blocks:  # what lies beyond takes part in decoding alone
            recorded = positions < self.settings.max_tokens
            rows, positions, tokens = rows[recorded], positions[recorded], tokens[recorded.to(tokens.device)]
        samples = [self.requests[row].sample for row in rows.tolist()]
        self.history.append(_Step([request.sample for request in self.requests], samples, positions.tolist(), tokens))
        if len(rows) and self.on_commits is not None:
            self._hand_over(timestep, samples, rows, positions, tokens)

    def _hand_over(
        self, timestep: int, samples: list[int], rows: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Give commits away with their predictions, those together that have the same horizons."""
        if self.session.block_size is None:
            predictions = self.trace.predictions(timestep, rows, positions)
            timesteps = [timestep] * len(samples)
            self.on_commits(Commits(timesteps, samples, positions.tolist(), tokens, predictions))
            return
        for chosen in self.trace.alike(timestep, rows, positions):
            predictions = self.trace.predictions(timestep, rows[chosen], positions[chosen])
            alike = [sample for sample, is_chosen in zip(samples, chosen.tolist(), strict=True) if is_chosen]
            tokens_of = tokens[chosen.to(tokens.device)]
            timesteps = [timestep] * len(alike)
            self.on_commits(Commits(timesteps, alike, positions[chosen].tolist(), tokens_of, predictions))

    def _finished(self, timesteps: int) -> torch.Tensor:
        """Which rows are done after so many: nothing is masked, or with stop_at_eos nothing before their end."""
        done = ~self.masked.any(1)
        if timesteps < self.policy.timesteps:
            done[:] = False  # what follows commits nothing; it is a forward pass all the same
        if not self.settings.stop_at_eos:
            return done
        step = self.history[-1]
        row_of = {request.sample: row for row, request in enumerate(self.requests)}
        tokens = step.tokens.tolist()
        self._check_finite()  # that had to wait for the GPU anyway
        for sample, position, token in zip(step.samples, step.positions, tokens, strict=True):
            if token in self.model.eos_token_ids:
                self.ends[row_of[sample]] = min(position, int(self.ends[row_of[sample]]))
        most = self.masked.shape[1]
        before_end = self.masked & (torch.arange(most) < self.ends[:, None])
        return done | (self.ends < most) & ~before_end.any(1)

    def _let_go(self, done: torch.Tensor) -> None:
        """Take rows out of the batch."""
        if not done.any():
            return
        rows = (~done).nonzero().squeeze(1)
        kept = rows.tolist()
        self._check_finite()
        self.requests = [self.requests[row] for row in kept]
        self.generators = [self.generators[row] for row in kept]
        if not kept:
            return
        self.masked, self.ends = self.masked[rows], self.ends[rows]
        self.blocks, self.passes = self.blocks[rows], self.passes[rows]
        self.trace.keep(rows)
        for session in (self.session, self.free):
            if session is not None:
                session.keep(rows)

    def _note_extremes(self, timestep: int, rows: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep the largest logit of each prediction, which tells NaN and infinity, for `_check_finite`."""
        ids = [self.requests[row].question_id for row in rows.tolist()]
        self.unchecked.append(_Check(timestep, ids, positions.tolist(), logits.amax(-1)))
        if logits.device.type == "cpu":  # on a GPU to look at once would be to wait for it
            self._check_finite()

    def _check_finite(self) -> None:
        for check in self.unchecked:
            if not bool(check.largest.isfinite().all()):
                at = int((~check.largest.isfinite()).nonzero()[0])
                raise NotFinite(check.question_ids[at], check.timestep, check.positions[at], check.largest[at].item())
        self.unchecked.clear()

    def _decoded(self, order: list[Request]) -> list[Decoded]:
        found: dict[int, Decoded] = {request.sample: Decoded([], 0) for request in order}
        passes = 2 if self.free is not None else 1
        for step in self.history:
            committed: dict[int, tuple[list[int], list[int]]] = {sample: ([], []) for sample in step.under_way}
            for sample, position, token in zip(step.samples, step.positions, step.tokens.tolist(), strict=True):
                committed[sample][0].append(position)
                committed[sample][1].append(token)
            for sample, (positions, tokens) in committed.items():
                found[sample].steps.append((positions, tokens))
        return [decoded._replace(forward_passes=passes * len(decoded.steps)) for decoded in found.values()]


class _Step(NamedTuple):
    """What one timestep committed."""

    under_way: list[int]  # the samples of the batch
    samples: list[int]  # (n,)
    positions: list[int]  # (n,)
    tokens: torch.Tensor  # (n,)


class _Check(NamedTuple):
    """The largest logit of each of n predictions of a timestep."""

    timestep: int
    question_ids: list[str]
    positions: list[int]
    largest: torch.Tensor
