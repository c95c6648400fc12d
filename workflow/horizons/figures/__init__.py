"""The figures of an experiment, one module a kind; `horizons.plots` draws them all."""
