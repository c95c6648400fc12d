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

_Key = tuple[int, int, int]  # of a prediction: its sample, timestep and position


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
    passes = _Passes(model, settings)
    size = settings.batch_size
    canvases = list(islice(source, size))
    while canvases:
        part, rest = canvases[:size], canvases[size:]
        if any(canvas.request.sample not in done for canvas in part):
            if (commits := if_it_fits(lambda part=part: passes.run(part))) is None:
                size = halve(len(part), part[0].request)
                continue
            begun = [canvas.request.sample for canvas in part if canvas.timestep == 0]
            _hand_over(begun, commits, on_begin, on_commits, done)
            finished = {each.request.sample: each.steps for each in part if each.timestep + 1 == len(each.steps)}
            if finished:
                passes.finite.check()
                yield {s: Decoded(steps, len(steps)) for s, steps in finished.items() if s not in done}
        canvases = rest or list(islice(source, size))


def _hand_over(
    begun: Sequence[int],
    commits: Sequence[Commits],
    on_begin: OnBegin | None,
    on_commits: OnCommits | None,
    done: Container[int],
) -> None:
    """Say which samples begin, and give commits away, but those of samples that are done."""
    begin = [sample for sample in begun if sample not in done]
    if begin and on_begin is not None:
        on_begin(begin)
    if on_commits is not None:
        for each in commits:
            if wanted := [number for number, sample in enumerate(each.samples) if sample not in done]:
                on_commits(each if len(wanted) == len(each.samples) else each.some(wanted))


class _Passes:
    """Passes over canvases of successive timesteps, and the predictions whose commits are still to come."""

    def __init__(self, model: MaskedModel, settings: Generation) -> None:
        self._model, self._settings = model, settings
        self._waiting: dict[_Key, torch.Tensor] = {}
        self.finite = FiniteCheck()

    @torch.inference_mode()
    def run(self, canvases: Sequence[_Canvas]) -> list[Commits]:
        """One pass: the commits of the canvases, those together that have the same horizons, of a sample in order.

        Where it fails nothing is changed.
        """
        predictions = self._waiting | self._predict(canvases)
        commits = []
        for horizons, alike in groupby(canvases, lambda canvas: self._horizons_of(canvas, predictions)):
            chosen = list(alike)
            found = {
                horizon: torch.stack([predictions[_key(canvas, horizon)] for canvas in chosen]) for horizon in horizons
            }
            ids = torch.tensor([canvas.steps[canvas.timestep][1][0] for canvas in chosen])
            tokens = upload(ids, self._model.device)
            timesteps = [canvas.timestep for canvas in chosen]
            commits.append(Commits(timesteps, [each.request.sample for each in chosen], timesteps, tokens, found))
        committed = {(canvas.request.sample, canvas.timestep) for canvas in canvases}
        self._waiting = {key: row for key, row in predictions.items() if (key[0], key[2]) not in committed}
        return commits

    def _predict(self, canvases: Sequence[_Canvas]) -> dict[_Key, torch.Tensor]:
        """The predictions that the horizons ask for, (vocab_size,) each."""
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
        self.finite.note([canvas.request.question_id for canvas in of], timesteps, positions.tolist(), logits)
        samples = [canvas.request.sample for canvas in of]
        return dict(zip(zip(samples, timesteps, positions.tolist(), strict=True), logits, strict=True))

    def _horizons_of(self, canvas: _Canvas, predictions: dict[_Key, torch.Tensor]) -> list[int]:
        """The horizons whose predictions of the token that a canvas commits there are."""
        return [horizon for horizon in self._settings.horizons if _key(canvas, horizon) in predictions]


def _key(canvas: _Canvas, horizon: int) -> _Key:
    """Where the prediction of a horizon for the token that a canvas commits is found."""
    return canvas.request.sample, canvas.timestep - horizon + 1, canvas.timestep
