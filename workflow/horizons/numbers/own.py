"""A user's own numbers: one function a file, checked where it is loaded and each time it is asked."""

import hashlib
import importlib.util
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from horizons.errors import UserError, first_line
from horizons.numbers.number import Function, Number

FOLDER = Path("numbers")
ROUNDING = 1e-5  # by which a value may be beyond a limit; it is then the limit


def number_file(name: str) -> Path:
    """The file that `divergence.numbers` names: `renyi` is numbers/renyi.py, and anything ending in .py a path."""
    return Path(name).expanduser() if name.endswith(".py") else FOLDER / f"{name}.py"


def checksum(path: Path) -> str:
    """The SHA-256 of a file. Raises UserError where it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; check divergence.numbers") from error


def require_number_files(names: Sequence[str], source: str) -> None:
    """Raise UserError, naming `source`, for a name in `divergence.numbers` that no file has, or that is there twice."""
    for name in names:
        if not (path := number_file(name)).is_file():
            there = ", ".join(sorted(other.stem for other in FOLDER.glob("*.py"))) or "none"
            raise UserError(
                f"{source}: divergence.numbers holds {name!r}; there is no file {path}, and {FOLDER}/ has: {there}"
            )
        if names.count(name) > 1:
            raise UserError(f"{source}: divergence.numbers holds {name!r} twice; remove one")


def changed_numbers(recorded: Sequence[Number], names: Sequence[str]) -> str | None:
    """What of the code of a user's numbers was changed since a table was made, in one line."""
    now = {number_file(name).as_posix(): checksum(number_file(name)) for name in names}
    for number in recorded:
        if now.get(number.file, number.sha256) != number.sha256:
            return f"{number.file}: was changed since {number.name} was measured"
    return None


def load_numbers(names: Sequence[str], taken: Sequence[str] = ()) -> list[Number]:
    """The numbers that the files define which `divergence.numbers` names.

    `taken` are names that are columns already. Raises UserError, naming the file, for one that can't be run, defines
    none or several, or one that can't be used.
    """
    found: dict[str, Number] = {}
    for path in map(number_file, names):
        number = _load(path)
        if number.name in taken or number.name in found:
            other = found[number.name].file if number.name in found else "the tables"
            raise UserError(f"{path}: {number.name} is a number of {other} already; give the function another name")
        found[number.name] = number
    return list(found.values())


def _load(path: Path) -> Number:
    known = checksum(path)
    spec = importlib.util.spec_from_file_location(f"numbers_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:
        raise UserError(f"{path}: can't be run: {_where(error, path)}") from error
    defined = {id(value): value for value in vars(module).values() if isinstance(value, Number)}
    if len(defined) != 1:
        names = ", ".join(number.name for number in defined.values()) or "none"
        raise UserError(f"{path}: defines {len(defined)} numbers ({names}); a file has one function with @number")
    [number] = defined.values()
    _require_usable(number, path)
    return number._replace(
        file=path.as_posix(),
        sha256=known,
        function=_checked(number, number.function, path),
        top_k=number.top_k and _checked(number, number.top_k, path),
    )


def _require_usable(number: Number, path: Path) -> None:
    """Raise UserError for a number that asks for what no block has, or contradicts itself."""
    from horizons.measure.bounds import TopBlock
    from horizons.measure.exact import Block

    for function, block in ((number.function, Block), (number.top_k, TopBlock)):
        for name in getattr(function, "names", ()):
            if name not in block.OFFERS:
                offers = ", ".join(block.OFFERS)
                raise UserError(f"{path}: {number.name} takes {name!r}, which there is not; it can take {offers}")
    names = getattr(number.function, "names", None)  # else the block itself, of which it takes what it likes
    if names is None:
        return
    compares = any(name.startswith("final_") or name == "q" for name in names)
    if compares and number.at_final is None:
        remedy = "say by at_final what comparing one with itself gives"
        raise UserError(f"{path}: {number.name} compares with the final prediction; {remedy}")
    if number.at_final is not None and not compares:
        raise UserError(f"{path}: {number.name} has at_final and takes nothing of the final prediction; remove it")


def _checked(number: Number, function: Function | None, path: Path) -> Callable[[Any], Any]:
    """The function of a number, whose values are looked at: their shape, and that they are within its range."""
    import torch

    def checked(block: Any) -> torch.Tensor:  # noqa: ANN401, of whatever mode
        try:
            values = function(block)  # type: ignore[misc]
        except Exception as error:
            raise UserError(f"{path}: {number.name} fails: {_where(error, path)}") from error
        if not isinstance(values, torch.Tensor) or tuple(values.shape) != (len(block),):
            shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise UserError(f"{path}: {number.name} gives {shape}; expected a tensor ({len(block)},), one value each")
        values = values.double()
        lowest, highest = number.limits(block.vocab_size)
        wrong = ~((values >= lowest - ROUNDING) & (values <= highest + ROUNDING))
        if wrong.any():
            value = values[wrong][0].item()
            raise UserError(f"{path}: {number.name} gives {value:g}; its range is {lowest:g} to {highest:g}")
        return values.clamp(lowest, highest)

    return checked


def _where(error: Exception, path: Path) -> str:
    """An error of a user's code on one line, with the line of the file it comes from."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    return f"{f'line {line}: ' if line else ''}{type(error).__name__}: {first_line(error)}"
