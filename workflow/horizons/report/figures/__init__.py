"""The figures of an experiment, one module a kind; `horizons.report.plots` draws them all."""
