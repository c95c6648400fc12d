"""Summarize the tables of an experiment, and keep its config beside them."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.summary import summarize
from horizons.tables import read_tables, write_table

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        table = read_tables(snakemake.input.tables)
        summary = summarize(table, snakemake.params.points, [Path(path) for path in snakemake.input.results])
        write_table(summary, Path(snakemake.output.summary))
        Path(snakemake.output.experiment).write_text(snakemake.params.experiment, encoding="utf-8")
