"""Build the page that shows every prediction of an experiment."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.report.explorer import explorer_page
            from horizons.store.custody import check_inputs
            from horizons.store.files import write_text

        tables, results, candidates = (
            [Path(path) for path in snakemake.input[name]] for name in ("tables", "results", "candidates")
        )
        check_inputs([*tables, *results, *candidates])
        page = explorer_page(
            snakemake.wildcards.experiment,
            tables,
            snakemake.params.points,
            results,
            candidates,
            {part: Path(snakemake.input[part]) for part in ("page", "style", "script")},
            snakemake.params.samples,
            snakemake.params.groups,
        )
        write_text(Path(snakemake.output.page), page)
