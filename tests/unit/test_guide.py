"""The user's guide as written: every Python example runs, in order, on a real triple."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from triples import random_samples, write_triple

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "save_logits_guide.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
RESULTS_FILES = ["results/baseline/00000.json.gz", "results/experiment/config.json.gz", "results/exp/config.json.gz"]


@pytest.fixture(scope="module")
def results_file(tmp_path_factory):
    return write_triple(tmp_path_factory.mktemp("guide"), random_samples(6, 64, 300), 64)


def test_every_example_runs_as_written(results_file, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {}
    assert len(EXAMPLES) == 11
    for example in EXAMPLES:
        for name in RESULTS_FILES:
            example = example.replace(name, str(results_file))
        exec(compile(example, "guide", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "PREDICTION DIVERGENCE ANALYSIS" in printed
    assert "Made 4 predictions for position 10" in printed
    assert "Horizon 8: 57 predictions" in printed
    assert len(namespace["sample_5_logits"]) == 245
    assert len(namespace["confidences"]) == 4
    assert all(entry["logits_np"].shape == (300,) for entry in namespace["logits_data"])


def test_the_command_prints_the_guides_summary(results_file):
    command = [sys.executable, "utils/load_saved_logits.py", str(results_file)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    frame = [line for line in GUIDE.splitlines() if line.startswith(("=====", "-----"))]
    for line in frame:
        assert line in printed.splitlines()
    assert re.search(r"^  Horizon 8: KL = \d+\.\d{4} ± \d+\.\d{4}$", printed, flags=re.MULTILINE)
    assert "Analyzed 63 positions" in printed
    verbose = subprocess.run([*command, "--verbose"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sum(line.startswith("  Position") for line in verbose.splitlines()) == 63


def test_the_commands_mistakes_are_one_line(tmp_path):
    command = [sys.executable, "utils/load_saved_logits.py", str(tmp_path / "none.json.gz")]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "none.json.gz: not found" in failed.stderr


def test_the_command_verifies_the_three_files(tmp_path):
    results_file = write_triple(tmp_path, random_samples(1, 6, 11), 6)
    command = [sys.executable, "utils/load_saved_logits.py", str(results_file), "--verify"]
    verified = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert verified.stdout == f"{results_file}: all three files are as they were written\n"
    logits_file = tmp_path / "00000.safetensors"
    logits_file.write_bytes(logits_file.read_bytes()[:-1] + b"\x77")
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"{logits_file}: was changed after it was written: its checksum is ")
    assert failed.stderr.count("\n") == 1


def test_analysis_compares_the_earliest_with_the_latest_prediction(results_file):
    from utils.load_saved_logits import analyze_divergence, load_logits_data, load_sample_logits

    stats = analyze_divergence(load_logits_data(str(results_file)), sample_idx=2)
    assert stats == analyze_divergence(load_sample_logits(str(results_file), 2), sample_idx=2)
    assert stats["skipped_positions"] == [0]
    assert set(stats["by_position"]) == set(range(1, 64))
    assert set(stats["by_position"][10]) == {
        *("num_predictions", "horizons_available", "earliest_horizon", "earliest_timestep", "latest_horizon"),
        *("latest_timestep", "kl_divergence", "js_divergence", "top5_agreement", "top1_changed", "early_top1"),
        "late_top1",
    }
    logits = {
        (entry["relative_position"], entry["horizon"]): entry["logits"].double()
        for entry in load_sample_logits(str(results_file), 2)
    }
    for position, found in stats["by_position"].items():
        earliest = max(h for h in (1, 2, 4, 8) if h - 1 <= position)
        p, q = (logits[position, horizon].softmax(0) for horizon in (earliest, 1))
        assert found["earliest_horizon"] == earliest
        assert found["earliest_timestep"] == position + 1 - earliest
        assert found["latest_timestep"] == position
        assert found["kl_divergence"] == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-5)
    by_horizon = torch.tensor(stats["by_horizon"][8])
    assert stats["summary"]["horizon_8_count"] == 57 == len(by_horizon)
    assert stats["summary"]["horizon_8_mean_kl"] == pytest.approx(by_horizon.mean().item(), rel=1e-5)
    assert stats["summary"]["horizon_8_std_kl"] == pytest.approx(by_horizon.std(correction=0).item(), rel=1e-5)


def test_only_the_metrics_asked_for_are_given(results_file):
    from utils.load_saved_logits import analyze_divergence, load_logits_data

    logits_data = load_logits_data(str(results_file))
    found = analyze_divergence(logits_data, metrics=["js"])
    assert "kl_divergence" not in found["by_position"][10]
    assert found["by_horizon"] == found["summary"] == {}
    with pytest.raises(ValueError, match="metrics has 'kj'; known are"):
        analyze_divergence(logits_data, metrics=["kj"])
    with pytest.raises(ValueError, match="no sample 9"):
        analyze_divergence(logits_data, sample_idx=9)
