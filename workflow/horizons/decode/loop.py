"""The decoding loop: a batch of prompts in; commits, timestep by timestep, and each sample's trace out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.choose import choose
from horizons.decode.finite import FiniteCheck
from horizons.decode.noise import TOKENS, streams
from horizons.decode.policies import policy_of
from horizons.decode.trace import Commits, Trace
from horizons.models.base import MaskedModel
from horizons.models.session import open_session
from horizons.models.transfer import upload
from horizons.prompts import Step

OnCommits = Callable[[Commits], None]
# Called with the samples of a batch before their first commit; again where the batch is done again in halves.
OnBegin = Callable[[list[int]], None]


class Request(NamedTuple):
    """One sample to be generated."""

    sample: int  # its number
    question_id: str
    prompt_ids: list[int]
    seed: int  # of its noise
    steps: list[Step] | None = None  # what each timestep is to commit, where that is not the model's choice


class Audit(NamedTuple):
    """Where the greedy choice of the model is not what a trace commits."""

    # By timestep and position: the token the model would have committed, and by how much its logit is larger.
    other_tokens: list[tuple[int, int, int, float]]
    other_positions: list[int]  # the timesteps at which the policy would have committed other positions


class Decoded(NamedTuple):
    """What became of one sample: for each timestep the positions it committed, ascending, and their tokens."""

    steps: list[Step]
    forward_passes: int
    audit: Audit | None = None  # of a replay

    def output_ids(self, mask_token_id: int) -> list[int]:
        """The tokens up to the last committed position; the mask token where a position before it is still masked.

        That can only be behind an end-of-text token, at which the sample was done.
        """
        committed = {at: token for step in self.steps for at, token in zip(*step, strict=True)}
        return [committed.get(position, mask_token_id) for position in range(max(committed, default=-1) + 1)]


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
    return Batch(model, requests, settings, on_commits).run()


class Batch:
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
        self.seeds = torch.tensor(seeds)
        self.masked = self.session.region(self.policy.whole_blocks)
        self.ends = torch.full((len(requests),), self.masked.shape[1])  # where each text ends, as far as is known
        # Of a model that attends from block to block: the block that each row is in, and its timesteps before this one.
        self.blocks = self.passes = torch.full((len(requests),), -1)
        self.horizons = settings.horizons if on_commits is not None else [1]
        self.trace = Trace(self.horizons)
        self.history: list[_Step] = []
        self.finite = FiniteCheck()

    def run(self) -> list[Decoded]:
        """One timestep after the other until no position is masked."""
        order, timestep = list(self.requests), 0
        while self.requests:
            self._step(timestep)
            timestep += 1
            self._let_go(self._finished(timestep))
        self.finite.check()
        return self._decoded(order)

    def _step(self, timestep: int) -> None:
        asked = self._asked(timestep) & self.session.reachable(self.masked)
        self._count_passes()
        rows, positions = asked.nonzero(as_tuple=True)
        logits = self.session.logits(rows, positions)
        ids = [self.requests[row].question_id for row in rows.tolist()]
        self.finite.note(ids, [timestep] * len(ids), positions.tolist(), logits)
        if self.on_commits is not None:
            self.trace.remember(timestep, asked, rows, positions, logits)
        self._commit(timestep, *self._choose(timestep, rows, positions, logits))

    def _asked(self, timestep: int) -> torch.Tensor:
        """Which positions (batch, positions), bool, a horizon may turn out to need a prediction of."""
        asked = torch.zeros_like(self.masked)
        for horizon in self.horizons:
            asked |= self.policy.may_commit(self.masked, timestep, horizon - 1)
        return asked

    def _choose(
        self, timestep: int, rows: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What to commit: rows and positions (n,), and tokens (n,) on the model's device."""
        candidates = self.policy.may_commit(self.masked, timestep, 0)[rows, positions]
        rows, positions = rows[candidates], positions[candidates]
        scores = self._scores(logits, candidates, rows, positions)
        noise = self._noise(timestep, rows, positions, scores.device)
        tokens = choose(scores, self.settings.temperature, self.model.mask_token_id, noise)
        chosen = self._policy_choice(timestep, rows, positions, scores, tokens)
        if chosen is None:
            return rows, positions, tokens
        return rows[chosen], positions[chosen], _those(tokens, chosen)

    def _policy_choice(
        self,
        timestep: int,
        rows: torch.Tensor,
        positions: torch.Tensor,
        scores: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor | None:
        """Which (n,), bool, of the candidates the policy commits; None for all of them."""
        if not len(rows):
            return None
        mask, block_size = self.model.mask_token_id, self.session.block_size
        offered = Candidates(rows, positions, scores, tokens, self.seeds, timestep, mask, self.passes, block_size)
        return self.policy.commit(timestep, offered)

    def _noise(
        self, timestep: int, rows: torch.Tensor, positions: torch.Tensor, device: torch.device
    ) -> torch.Tensor | None:
        """Where the noise of each candidate begins, (n,); None where nothing is drawn."""
        if self.settings.temperature == 0:
            return None
        return upload(streams(self.seeds[rows], TOKENS, timestep, positions), device)

    def _count_passes(self) -> None:
        if self.session.block_size is not None:
            blocks = self.session.current_blocks(self.masked)
            self.passes = torch.where(blocks == self.blocks, self.passes + 1, 0)
            self.blocks = blocks

    def _scores(
        self, logits: torch.Tensor, candidates: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """What tokens are chosen from, (n, vocab_size), a copy: the logits of the candidates, after guidance."""
        scores = _those(logits, candidates)
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
            rows, positions, tokens = rows[recorded], positions[recorded], _those(tokens, recorded)
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
            tokens_of, timesteps = _those(tokens, chosen), [timestep] * len(alike)
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
        self.finite.check()  # that had to wait for the GPU anyway
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
        self.finite.check()
        self.requests = [self.requests[row] for row in kept]
        if not kept:
            return
        self.masked, self.ends, self.seeds = self.masked[rows], self.ends[rows], self.seeds[rows]
        self.blocks, self.passes = self.blocks[rows], self.passes[rows]
        self.trace.keep(rows)
        for session in (self.session, self.free):
            if session is not None:
                session.keep(rows)

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


def _those(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The rows of values (n, ...) that are chosen (n,), bool, on the CPU: which they are is not asked of a GPU."""
    return values.index_select(0, upload(chosen.nonzero().squeeze(1), values.device))


class _Step(NamedTuple):
    """What one timestep committed."""

    under_way: list[int]  # the samples of the batch
    samples: list[int]  # (n,)
    positions: list[int]  # (n,)
    tokens: torch.Tensor  # (n,)
