"""Compare the swept points of an experiment, and draw the comparison."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.report.comparison import compare
            from horizons.report.plots import draw_comparison
            from horizons.store.custody import check_inputs
            from horizons.store.tables import write_table

        tables, results = ([Path(path) for path in snakemake.input[name]] for name in ("tables", "results"))
        check_inputs([*tables, *results])
        comparison = compare(tables, snakemake.params.points, results)
        draw_comparison(
            comparison, snakemake.params.points, Path(snakemake.input.style), Path(snakemake.output.png).parent
        )
        write_table(comparison, Path(snakemake.output.table))
