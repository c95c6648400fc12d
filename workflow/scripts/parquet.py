"""Write a table as Parquet, too."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.report.tables import open_tables
            from horizons.store.custody import check_inputs

        path = Path(snakemake.input.table)
        check_inputs([path])
        with open_tables([path]) as [table]:
            table.write_parquet(Path(snakemake.output.table))
