"""The one exception for what a user can put right, and what others say in one line."""


class UserError(Exception):
    """A mistake in a config, a prompt file, a checkpoint or the files of a run.

    Its text says which file, key or sample is wrong, what was found and what to do, one line for each problem.
    Commands show it without a traceback.
    """


def first_line(error: Exception) -> str:
    """What an exception of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
