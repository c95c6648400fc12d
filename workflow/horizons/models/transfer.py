"""Small tensors on their way to a device that is still busy."""

import torch


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on a device; the host does not wait for what the device has still to do.

    From pinned memory, for any other is copied when the device has done all before. torch keeps what was pinned and
    gives it out again, so after the first timesteps none is new.
    """
    if device.type != "cuda" or values.is_cuda or not values.numel():
        return values.to(device)
    return values.contiguous().pin_memory().to(device, non_blocking=True)
