"""Draw the figures of an experiment."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.plots import draw
from horizons.tables import read_tables

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        table = read_tables(snakemake.input.tables)
        draw(table, snakemake.params.points, Path(snakemake.input.style), Path(snakemake.output[0]).parent)
