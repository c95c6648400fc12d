"""Build the page that shows every prediction of an experiment."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.report.explorer import explorer_page
from horizons.store.tables import read_tables

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        page = explorer_page(
            snakemake.wildcards.experiment,
            read_tables(snakemake.input.tables),
            snakemake.params.points,
            [Path(path) for path in snakemake.input.results],
            [Path(path) for path in snakemake.input.candidates],
            {part: Path(snakemake.input[part]) for part in ("page", "style", "script")},
        )
        Path(snakemake.output.page).write_text(page, encoding="utf-8")
