"""Check the triple of one run."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.validation import report_on

        report_on(Path(snakemake.input.results), Path(snakemake.output.report))
