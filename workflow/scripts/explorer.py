"""Build the page that shows every prediction of an experiment."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.report.explorer import explorer_page

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        page = explorer_page(
            snakemake.wildcards.experiment,
            [Path(path) for path in snakemake.input.tables],
            snakemake.params.points,
            [Path(path) for path in snakemake.input.results],
            [Path(path) for path in snakemake.input.candidates],
            {part: Path(snakemake.input[part]) for part in ("page", "style", "script")},
            snakemake.params.samples,
        )
        Path(snakemake.output.page).write_text(page, encoding="utf-8")
