#!/usr/bin/env bash
# bash run.sh EXPERIMENT [--report]: set-up on first use, then the workflow on config/EXPERIMENT.yaml, then its table.
# With --report also writes results/EXPERIMENT/report.html. Further arguments go to Snakemake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

experiment="${1:-}"
if [[ -z "$experiment" || "$experiment" == config || "$experiment" == */* || ! -f "config/$experiment.yaml" ]]; then
    names=$(for path in config/*.yaml; do basename "$path" .yaml; done | grep -vx config | paste -sd ' ')
    echo "run.sh: no experiment '$experiment'; there are: $names" >&2
    exit 1
fi
shift
report=false
if [[ "${1:-}" == --report ]]; then
    report=true
    shift
fi

# Here, for Snakemake ends in a traceback there.
if [[ ! -w . ]]; then
    echo "run.sh: $PWD: can't be written to; make a folder of links to it and run it there, as docs/reliability.md says" >&2
    exit 1
fi

source scripts/setup.sh
# In quotes, so that YAML does not take a name such as 007 for a number; before the options that take several values.
selected="experiments=['${experiment//\'/\'\'}']"
snakemake --cores all "$@" --quiet host rules --config "$selected"
if $report; then
    python scripts/show_results.py "$experiment" --report
    snakemake --quiet host rules --config "$selected" --report "results/$experiment/report.html"
fi
python scripts/show_results.py "$experiment"
