"""Which masked positions a timestep commits: one file a policy."""

from horizons.config import Generation
from horizons.decode.policies.base import NoPolicy, Policy
from horizons.decode.policies.block_diffusion import BlockDiffusion
from horizons.decode.policies.dream import Dream
from horizons.decode.policies.factor import Factor
from horizons.decode.policies.llada import Llada
from horizons.decode.policies.threshold import Threshold

__all__ = ["Policy", "policy_of"]

POLICIES: dict[str, type[Policy]] = {
    "llada": Llada,
    "dream": Dream,
    "threshold": Threshold,
    "factor": Factor,
    "block_diffusion": BlockDiffusion,
}


def policy_of(settings: Generation) -> Policy:
    """The policy that an experiment asks for."""
    if settings.policy is None:
        return NoPolicy()
    return POLICIES[settings.policy](settings)
