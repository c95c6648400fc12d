#!/usr/bin/env bash
# bash run.sh EXPERIMENT [--report]: set-up on first use, then the workflow on config/EXPERIMENT.yaml, then its table.
# With --report also writes results/EXPERIMENT/report.html. Further arguments go to Snakemake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

experiment="${1:-}"
if [[ -z "$experiment" || "$experiment" == config || ! -f "config/$experiment.yaml" ]]; then
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

source scripts/setup.sh
snakemake --cores all --quiet host rules --config "experiments=[$experiment]" "$@"
if $report; then
    snakemake --quiet host rules --config "experiments=[$experiment]" --report "results/$experiment/report.html"
fi
python scripts/show_results.py "$experiment"
