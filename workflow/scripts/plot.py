"""Draw the figures of an experiment."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.report.plots import draw
from horizons.store.tables import read_tables

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        draw(
            read_tables(snakemake.input.tables),
            snakemake.params.points,
            [Path(path) for path in snakemake.input.candidates],
            snakemake.params.samples,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
            snakemake.threads,
            snakemake.params.left_to_right,
        )
