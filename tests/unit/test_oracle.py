"""A made-up model that knows the exact answer, through decoding, the triple and the divergence stage."""

import math

import numpy as np
import pytest
import torch

from horizons.config import Generation
from horizons.decode.batches import generate
from horizons.divergence import measure_divergence
from horizons.validation import validate_triple
from triples import write_triple

NAMES = 20


class ShuffleOracle:
    """Knows the conditional distribution of a shuffle of distinct names: uniform over those not yet used."""

    mask_token_id = NAMES
    pad_token_id = NAMES + 1
    vocab_size = NAMES + 2
    suffix_ids: list[int] = []  # noqa: RUF012
    device = torch.device("cpu")

    eos_token_ids: list[int] = []  # noqa: RUF012

    def forward(self, token_ids, _attention_mask, rows, _columns):
        logits = torch.full((len(rows), self.vocab_size), -math.inf)
        canvases = token_ids.tolist()
        for asked, row in enumerate(rows.tolist()):
            used = set(canvases[row])
            logits[asked, [name for name in range(NAMES) if name not in used]] = 0.0
        return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_divergence_of_an_exact_shuffle_is_its_closed_form(tmp_path, temperature):
    settings = Generation(max_tokens=NAMES, temperature=temperature, batch_size=2)
    samples = list(generate(ShuffleOracle(), [[NAMES + 1], [NAMES + 1] * 5, [NAMES + 1]], settings))
    for tokens, _ in samples:
        assert sorted(tokens.tolist()) == list(range(NAMES))
    results_file = write_triple(tmp_path, samples, NAMES, mask_token_id=NAMES)
    assert validate_triple(results_file) == []
    table = measure_divergence(results_file)
    assert len(table) == 3 * sum(NAMES - h + 1 for h in (1, 2, 4, 8))

    horizon, position = table["horizon"].to_numpy(), table["relative_position"].to_numpy()
    early, final = NAMES - position - 1 + horizon, NAMES - position  # names still possible
    np.testing.assert_allclose(table["kl_reverse"], np.log(early / final), atol=1e-5)
    middle = (1 / early + 1 / final) / 2
    js = (
        final / early * np.log(1 / early / middle) + (early - final) / early * math.log(2) + np.log(1 / final / middle)
    ) / 2
    np.testing.assert_allclose(table["js"], js, atol=1e-5)
    assert (table.loc[horizon > 1, "kl"] == math.inf).all()
    assert (table.loc[horizon == 1, "kl"] == 0).all()
    np.testing.assert_allclose(table["entropy"], np.log(early), atol=1e-5)
    np.testing.assert_allclose(table["confidence"], 1 / early, atol=1e-6)
    np.testing.assert_allclose(table["final_token_probability"], 1 / early, atol=1e-6)
    np.testing.assert_allclose(table["surprisal"], np.log(early), atol=1e-5)
