"""Traces of other decoders, forced through the model: what it predicts on the way, and where it would have differed."""

import torch

from horizons.config import Generation
from horizons.decode.choose import choose
from horizons.decode.loop import Audit, Batch, Decoded, OnCommits, Request
from horizons.errors import UserError
from horizons.models.base import MaskedModel
from horizons.models.session import tail_length
from horizons.models.transfer import upload


@torch.inference_mode()
def replay_batch(
    model: MaskedModel, requests: list[Request], settings: Generation, on_commits: OnCommits | None = None
) -> list[Decoded]:
    """As `decode_batch`, with the commits that each request's `steps` say instead of chosen ones.

    Each sample has an `Audit`: what the greedy model, and the policy if the settings name one, would have committed
    instead. Raises UserError for a trace that the model can't follow, NotFinite.
    """
    return _Replay(model, requests, settings, on_commits).run()


class _Replay(Batch):
    """A batch whose commits are known beforehand."""

    def __init__(
        self, model: MaskedModel, requests: list[Request], settings: Generation, on_commits: OnCommits | None
    ) -> None:
        super().__init__(model, requests, settings, on_commits)
        self.masked = self.session.region(whole_blocks=False)  # a trace says nothing of what lies beyond max_tokens
        self.audits = {request.sample: Audit([], []) for request in requests}
        self.greedy: list[_Greedy] = []

    def run(self) -> list[Decoded]:
        """One timestep after the other until the traces end."""
        order = list(self.requests)
        decoded = super().run()
        for timestep, samples, positions, tokens, gaps in self.greedy:
            found = zip(samples, positions, tokens.tolist(), gaps.tolist(), strict=True)
            for sample, position, token, gap in found:
                if gap > 0:
                    self.audits[sample].other_tokens.append((timestep, position, token, gap))
        return [each._replace(audit=self.audits[request.sample]) for each, request in zip(decoded, order, strict=True)]

    def _asked(self, timestep: int) -> torch.Tensor:
        """What the policy would ask for, so that its own trace meets the same predictions, and what is committed."""
        asked = super()._asked(timestep)
        for horizon in self.horizons:
            asked[self._scripted(timestep + horizon - 1)[:2]] = True
        return asked

    def _choose(
        self, timestep: int, rows: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scripted_rows, scripted_positions, scripted_tokens = self._scripted(timestep)
        token_at = torch.full(self.masked.shape, -1)
        token_at[scripted_rows, scripted_positions] = scripted_tokens
        self._require_reachable(timestep, rows, positions, scripted_rows, scripted_positions)
        of_policy = self.policy.may_commit(self.masked, timestep, 0)[rows, positions]
        candidates = of_policy | (token_at[rows, positions] >= 0)
        rows, positions, of_policy = rows[candidates], positions[candidates], of_policy[candidates]
        scores = self._scores(logits, candidates, rows, positions)
        tokens = choose(scores, 0.0, self.model.mask_token_id, None)
        scripted = token_at[rows, positions]
        self._note_positions(timestep, rows, positions, scores, tokens, of_policy, scripted)
        kept = (scripted >= 0).nonzero().squeeze(1)
        rows, positions, scripted = rows[kept], positions[kept], upload(scripted[kept], scores.device)
        on_device = upload(kept, scores.device)
        scores, tokens = scores[on_device], tokens[on_device]
        gaps = (scores.gather(1, tokens[:, None]) - scores.gather(1, scripted[:, None])).squeeze(1).float()
        samples = [self.requests[row].sample for row in rows.tolist()]
        self.greedy.append((timestep, samples, positions.tolist(), tokens, gaps))
        return rows, positions, scripted

    def _note_positions(
        self,
        timestep: int,
        rows: torch.Tensor,
        positions: torch.Tensor,
        scores: torch.Tensor,
        tokens: torch.Tensor,
        of_policy: torch.Tensor,
        scripted: torch.Tensor,
    ) -> None:
        """Note for which samples the policy would have committed other positions than the trace does."""
        if self.settings.policy is None:
            return
        on_device = upload(of_policy.nonzero().squeeze(1), scores.device)
        chosen = self._policy_choice(
            timestep, rows[of_policy], positions[of_policy], scores[on_device], tokens[on_device]
        )
        would = torch.zeros(len(rows), dtype=torch.bool)
        would[of_policy] = True if chosen is None else chosen
        differs = (would != (scripted >= 0)) & ~self._in_cut_block()[rows]
        for row in rows[differs].unique().tolist():
            self.audits[self.requests[row].sample].other_positions.append(timestep)

    def _in_cut_block(self) -> torch.Tensor:
        """Which rows, (batch,) bool, are in a block that goes on beyond max_tokens.

        Its decoder may have committed positions there, of which the trace says nothing.
        """
        size, most = self.session.block_size, self.settings.max_tokens
        is_cut = [tail_length(len(request.prompt_ids) + most, size) > 0 for request in self.requests]
        is_last = (self.session.reachable(self.masked) == self.masked).all(1)
        return torch.tensor(is_cut) & is_last

    def _finished(self, timesteps: int) -> torch.Tensor:
        return torch.tensor([timesteps >= len(request.steps or []) for request in self.requests])

    def _scripted(self, timestep: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the traces commit at a timestep: rows, positions and tokens (n,), on the CPU."""
        found = [
            (row, position, token)
            for row, request in enumerate(self.requests)
            if request.steps is not None and timestep < len(request.steps)
            for position, token in zip(*request.steps[timestep], strict=True)
        ]
        rows, positions, tokens = torch.tensor(found, dtype=torch.long).reshape(-1, 3).T
        return rows, positions, tokens

    def _require_reachable(
        self,
        timestep: int,
        rows: torch.Tensor,
        positions: torch.Tensor,
        scripted_rows: torch.Tensor,
        scripted_positions: torch.Tensor,
    ) -> None:
        """Raise UserError where the model predicts nothing yet for a position that is to be committed."""
        asked = {*zip(rows.tolist(), positions.tolist(), strict=True)}
        for row, position in zip(scripted_rows.tolist(), scripted_positions.tolist(), strict=True):
            if (row, position) not in asked:
                raise UserError(
                    f"prompt {self.requests[row].question_id!r}: its trace commits position {position} at timestep "
                    f"{timestep}, where the model predicts nothing for it yet; it follows an order that this model "
                    "does not decode in"
                )


# A timestep, then (n,) each: samples, positions, the greedy tokens and by how much their logits are larger.
_Greedy = tuple[int, list[int], list[int], torch.Tensor, torch.Tensor]
