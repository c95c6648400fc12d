"""What holds for every test, in each of the workers that share them."""

import os

# Before torch is imported, here and in every process that a test starts: the workers fill the cores already.
os.environ["OMP_NUM_THREADS"] = "1"
