"""What a project registers with bookkit: the table `[tool.bookkit]` of its pyproject.toml."""

import pkgutil
import tomllib
from collections.abc import Callable
from typing import Any

from nodulebook.core import paths
from nodulebook.core.errors import InputError


def setting(name: str) -> Any:
    """A value of `[tool.bookkit]`.

    Raises:
        InputError: the table or the key is missing.
    """
    path = paths.ROOT / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["bookkit"][name]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        raise InputError(f"{path}: [tool.bookkit] has no {name}") from None


def hook(address: str) -> Callable[..., Any]:
    """The function that an address such as `package.module:function` names.

    Raises:
        InputError: there is no such module or function.
    """
    try:
        return pkgutil.resolve_name(address)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError):
        raise InputError(f"pyproject.toml: [tool.bookkit]: no function {address}") from None
