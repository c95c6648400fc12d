"""What is kept of the predictions of a commit, and what can be measured from it: one file a capture mode."""
