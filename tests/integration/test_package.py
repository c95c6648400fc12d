"""The library as a package: it is built, and installed alone it reads results without what only runs need."""

import shutil
import subprocess
import sys
import zipfile

import pytest

import horizons
from workflows import REPOSITORY

USE_IT = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not there", name=name)


BLOCKED = {"snakemake", "transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "pyarrow"}
sys.meta_path.insert(0, Blocker())
import horizons

assert horizons.__file__.startswith(sys.argv[1]), horizons.__file__
triple = horizons.open_triple(f"{sys.argv[2]}/00000.json.gz")
assert triple.logits.shape[0] == len(triple.metadata) > 0
assert horizons.validate_triple(triple.results_file) == []
assert len(horizons.measure_divergence(triple.results_file)) == len(triple.metadata)
from pathlib import Path

from horizons.report.summary import summarize

folder = Path(sys.argv[2])
paths = [[folder / f"{run}.{end}" for run in ("00000", "00001")] for end in ("divergence.csv", "json.gz")]
candidates = [folder / f"{run}.candidates.json.gz" for run in ("00000", "00001")]
summary = summarize(paths[0], {"00000": {}, "00001": {}}, paths[1], candidates)
assert (summary["entries"] == "all").sum() == 6
assert len(horizons.load_table("small", folder.parent)) == 2 * len(triple.metadata)
print("all of it")
"""


@pytest.fixture(scope="module")
def built(pristine, tmp_path_factory):
    """A folder with the wheel and the archive of the source."""
    folder = tmp_path_factory.mktemp("dist")
    source = shutil.copytree(pristine, tmp_path_factory.mktemp("source") / "repository")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_wheel_and_an_archive_are_built_that_an_index_would_take(built):
    names = sorted(path.name for path in built.iterdir())
    version = horizons.__version__
    assert names == [f"horizons-{version}-py3-none-any.whl", f"horizons-{version}.tar.gz"]
    checked = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_library_and_nothing_beside_it(built):
    [wheel] = built.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    library = REPOSITORY / "workflow/horizons"
    assert sorted(names) == sorted(f"horizons/{path.relative_to(library)}" for path in library.rglob("*.py"))


def test_installed_alone_it_reads_validates_and_summarizes_without_snakemake_and_transformers(
    built, finished, tmp_path
):
    [wheel] = built.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    command = [sys.executable, "-c", USE_IT, str(tmp_path), str(finished / "results/small")]
    done = subprocess.run(
        command, cwd="/", env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "all of it\n"), done.stderr
