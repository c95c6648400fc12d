"""The one exception for what a user can put right."""


class UserError(Exception):
    """A mistake in a config, a prompt file, a checkpoint or the files of a run.

    Its text says which file, key or sample is wrong, what was found and what to do, one line for each problem.
    Commands show it without a traceback.
    """
