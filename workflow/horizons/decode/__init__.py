"""From a model and prompts to commits: which positions, which tokens, and what was predicted for them before."""
