"""Checkpoints from the Hugging Face hub."""

import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from horizons.errors import UserError, first_line
from horizons.models.facts import DECIDING_SUFFIXES

FILES = [f"*{suffix}" for suffix in DECIDING_SUFFIXES]

logger = logging.getLogger(__name__)


def download(name: str, revision: str | None, with_code: bool) -> tuple[Path, str]:
    """Bring a checkpoint into the local cache, if it is not there; gives its folder and the commit it is of.

    Raises UserError where the network, the id, the revision or the permission is lacking.
    """
    patterns = [*FILES, "*.py"] if with_code else FILES
    try:
        folder = Path(
            # Subfolders hold the same weights for other software.
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
        )
    except GatedRepoError as error:
        raise UserError(f"{name}: is gated; ask for access on its page, then log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such folder, and no such model on the hub or a private one; check model.name, or log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: has no revision {revision!r}; check model.revision") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"{name}: no such folder, and the hub can't be reached and has not been asked for this model before; "
            "download it where there is a network, then name its folder"
        ) from error
    except Exception as error:  # of the network, the disk and several libraries
        raise UserError(f"{name}: download failed: {first_line(error)}") from error
    if revision is None:
        logger.warning(
            "%s: model.revision is not set, so a later run may get other weights; this one has %s", name, folder.name
        )
    return folder, folder.name
