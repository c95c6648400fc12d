"""Summarize the groups of entries that an experiment names."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.report.groups import summarize_groups
            from horizons.report.labels import as_written
            from horizons.store.custody import check_inputs, write_record
            from horizons.store.tables import write_table

        tables, candidates = ([Path(path) for path in snakemake.input[name]] for name in ("tables", "candidates"))
        made_of = check_inputs([*tables, *candidates])
        points, table = snakemake.params.points, Path(snakemake.output.table)
        write_table(as_written(summarize_groups(tables, points, candidates, snakemake.params.groups), points), table)
        write_record(Path(snakemake.output.record), "groups", [table], made_of)
