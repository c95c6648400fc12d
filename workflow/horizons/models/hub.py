"""Checkpoints from the Hugging Face hub."""

import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from horizons.errors import UserError

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]

logger = logging.getLogger(__name__)


def download(name: str, revision: str | None, with_code: bool) -> tuple[Path, str]:
    """Bring a checkpoint into the local cache, if it is not there; gives its folder and the commit it is of.

    Raises UserError where the network, the id, the revision or the permission is lacking.
    """
    if revision is None:
        logger.warning("%s: model.revision is not set, so a later run may get other weights; set it to a commit", name)
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=[*FILES, "*.py"] if with_code else FILES)
        )
    except GatedRepoError as error:
        raise UserError(f"{name}: is gated; ask for access on its page, then log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: no such model on the hub, or a private one; check model.name, or log in") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: has no revision {revision!r}; check model.revision") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"{name}: the hub can't be reached and the model is not in the local cache") from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{name}: download failed: {str(error).splitlines()[0]}") from error
    return folder, folder.name
