"""Given texts: all canvases are known beforehand, so they go through the model many timesteps at once."""

from collections.abc import Container, Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple

import torch

from horizons.config import Generation
from horizons.decode.finite import FiniteCheck
from horizons.decode.fit import halve, if_it_fits
from horizons.decode.loop import Decoded, OnBegin, OnCommits, Request, Step
from horizons.decode.trace import Commits
from horizons.models.base import MaskedModel
from horizons.models.session import open_session
from horizons.models.transfer import upload


class _Canvas(NamedTuple):
    """A text of which the tokens before a timestep are revealed."""

    request: Request
    timestep: int
    steps: list[Step]


def predict_given(
    model: MaskedModel,
    requests: Sequence[Request],
    settings: Generation,
    on_begin: OnBegin | None = None,
    on_commits: OnCommits | None = None,
    done: Container[int] = (),
) -> Iterator[dict[int, Decoded]]:
    """As `decode_in_batches`, of texts that the `steps` of the requests hold, a token a timestep from left to right.

    The canvases of all texts follow each other, timestep by timestep and text by text, shorter prompts first, and so
    many as a batch holds go through the model together. Where the borders of these passes are does not depend on what
    is done. Raises UserError if one canvas does not fit, NotFinite.
    """
    source = (
        _Canvas(request, timestep, request.steps or [])
        for request in sorted(requests, key=lambda request: len(request.prompt_ids))
        for timestep in range(len(request.steps or []))
    )
    passes = _Passes(model, settings, on_commits, done)
    size = settings.batch_size
    canvases = list(islice(source, size))
    while canvases:
        part, rest = canvases[:size], canvases[size:]
        if all(canvas.request.sample in done for canvas in part):
            canvases = rest or list(islice(source, size))
            continue
        begin = [each.request.sample for each in part if each.timestep == 0 and each.request.sample not in done]
        if begin and on_begin is not None:
            on_begin(begin)
        if (finished := if_it_fits(lambda part=part: passes.run(part))) is None:
            size = halve(len(part), part[0].request)
            continue
        if finished:
            yield finished
        canvases = rest or list(islice(source, size))


class _Passes:
    """Passes over canvases of successive timesteps, and the predictions whose commits are still to come."""

    def __init__(
        self, model: MaskedModel, settings: Generation, on_commits: OnCommits | None, done: Container[int]
    ) -> None:
        self._model, self._settings, self._on_commits, self._done = model, settings, on_commits, done
        self._predictions: dict[tuple[int, int, int], torch.Tensor] = {}  # by sample, timestep and position
        self._finite = FiniteCheck()

    @torch.inference_mode()
    def run(self, canvases: Sequence[_Canvas]) -> dict[int, Decoded]:
        """One pass: hands commits over, and gives what became of the samples that it finishes."""
        self._predictions |= self._predict(canvases)
        # Those together that have the same horizons; of a sample the earlier ones first.
        for horizons, alike in groupby(canvases, self._horizons_of):
            self._hand_over(horizons, list(alike))
        finished = [each for each in canvases if each.timestep + 1 == len(each.steps)]
        if finished:
            self._finite.check()
        return {
            each.request.sample: Decoded(each.steps, len(each.steps))
            for each in finished
            if each.request.sample not in self._done
        }

    def _predict(self, canvases: Sequence[_Canvas]) -> dict[tuple[int, int, int], torch.Tensor]:
        """The predictions that the horizons ask for, (vocab_size,) each, by sample, timestep and position."""
        settings = self._settings
        seeds = [canvas.request.seed for canvas in canvases]
        prompts = [canvas.request.prompt_ids for canvas in canvases]
        session = open_session(self._model, prompts, settings.max_tokens, seeds)
        masked = session.region(whole_blocks=False)
        revealed = [
            (row, position, token)
            for row, canvas in enumerate(canvases)
            for (position,), (token,) in canvas.steps[: canvas.timestep]
        ]
        if revealed:
            rows, positions, tokens = torch.tensor(revealed).T
            session.reveal(rows, positions, upload(tokens, self._model.device))
            masked[rows, positions] = False
        asked = torch.zeros_like(masked)
        for row, canvas in enumerate(canvases):
            wanted = [canvas.timestep - 1 + horizon for horizon in settings.horizons]
            asked[row, [position for position in wanted if position < len(canvas.steps)]] = True
        rows, positions = (asked & session.reachable(masked)).nonzero(as_tuple=True)
        logits = session.logits(rows, positions)
        of = [canvases[row] for row in rows.tolist()]
        timesteps = [canvas.timestep for canvas in of]
        self._finite.note([canvas.request.question_id for canvas in of], timesteps, positions.tolist(), logits)
        samples = [canvas.request.sample for canvas in of]
        return dict(zip(zip(samples, timesteps, positions.tolist(), strict=True), logits, strict=True))

    def _horizons_of(self, canvas: _Canvas) -> list[int]:
        """The horizons whose predictions of the token that a canvas commits there are."""
        return [horizon for horizon in self._settings.horizons if _key(canvas, horizon) in self._predictions]

    def _hand_over(self, horizons: list[int], canvases: list[_Canvas]) -> None:
        """Give away the commits of canvases, their predictions with them."""
        found = {horizon: [self._predictions.pop(_key(each, horizon)) for each in canvases] for horizon in horizons}
        wanted = [number for number, each in enumerate(canvases) if each.request.sample not in self._done]
        if not wanted or self._on_commits is None:
            return
        chosen = [canvases[number] for number in wanted]
        tokens = upload(torch.tensor([each.steps[each.timestep][1][0] for each in chosen]), self._model.device)
        predictions = {horizon: torch.stack([rows[number] for number in wanted]) for horizon, rows in found.items()}
        timesteps = [each.timestep for each in chosen]
        samples = [each.request.sample for each in chosen]
        self._on_commits(Commits(timesteps, samples, timesteps, tokens, predictions))


def _key(canvas: _Canvas, horizon: int) -> tuple[int, int, int]:
    """Where the prediction of a horizon for the token that a canvas commits is found."""
    return canvas.request.sample, canvas.timestep - horizon + 1, canvas.timestep
