"""From prompts to divergence statistics: a triple for each run, checked, compared, drawn and summarized."""

from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/config.smk"


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


# For --sdm apptainer, which alone looks for it; docs/containers.md says how it is made.
container: "workflow/envs/horizons.sif"


# results/{experiment}/{run}.json.gz | .safetensors | .metadata.json    the triple
# results/{experiment}/{run}.validation.json | .divergence.csv | .candidates.json.gz | .divergence.json
# results/{experiment}/{run}.noise.csv | .noise.json    with noise
# results/{experiment}/plots/{figure}.png | .svg | .pdf | .csv, captions.md | .tex, confidence.csv
# results/{experiment}/summary.csv | summary.html | provenance.html | explorer.html | experiment.yaml | summary.json
# results/{experiment}/comparison.csv | .json, groups.csv | .json
# results/{experiment}/{run}.divergence.parquet | summary.parquet | comparison.parquet    with tables: parquet
# logs/{rule}/{experiment}[/{run}].log, benchmarks/{rule}/{experiment}[/{run}].tsv
wildcard_constraints:
    experiment=r"[^/]+",  # which may be one is said, with those there are, when its config is read
    run=r"\d{5}",
    group=r"[\w-]+",


include: "workflow/rules/common.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/divergence.smk"
include: "workflow/rules/noise.smk"
include: "workflow/rules/plot.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/groups.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/summarize.smk"
include: "workflow/rules/parquet.smk"


rule all:
    input:
        lambda wildcards: [target for experiment in experiments_asked_for() for target in targets_of(experiment)],
