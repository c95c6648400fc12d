"""How the predictions of masked diffusion language models change as the text before them is revealed."""
