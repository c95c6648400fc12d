"""Compare the swept points of an experiment, and draw the comparison."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots, pool_seeds
            from horizons.report.comparison import compare
            from horizons.report.labels import as_written
            from horizons.report.plots import draw_comparison
            from horizons.store.custody import check_inputs, write_record
            from horizons.store.tables import write_table

        tables, results = ([Path(path) for path in snakemake.input[name]] for name in ("tables", "results"))
        made_of = check_inputs([*tables, *results])
        points, folder = snakemake.params.points, Path(snakemake.output.png).parent
        comparison = compare(tables, points, results)
        draw_comparison(
            comparison, points, Path(snakemake.input.style), folder, Plots.model_validate(snakemake.params.plots)
        )
        pooled = {run: pool_seeds(point) for run, point in points.items()}
        table = Path(snakemake.output.table)
        write_table(as_written(comparison, pooled), table)
        write_record(Path(snakemake.output.record), "comparison", [table], made_of)
