"""From the tables of runs to a summary, figures and pages. No torch."""
