"""How the C library keeps memory that was freed."""

import torch

LARGEST_MINDED = 31 * 2**20  # bytes; of larger blocks glibc learns nothing


def hold_freed_memory() -> None:
    """Have tensors on the host take memory that others gave back, and not new memory from the kernel.

    glibc keeps twice as much freed memory at hand as the largest block freed so far, and asks the kernel anew for all
    beyond. Without a large block the tensors of each step are paid for page by page.
    """
    torch.empty(LARGEST_MINDED, dtype=torch.uint8)
