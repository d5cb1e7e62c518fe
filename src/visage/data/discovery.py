"""Sources of images are found by the names of their files, so that adding one changes no list."""

import importlib
import pkgutil
from types import ModuleType


def names(package: ModuleType) -> list[str]:
    """The names of a package's modules, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find(package: ModuleType, name: str, protocol: type) -> ModuleType:
    """Import a module of a package.

    protocol: what the module must define, a `typing.runtime_checkable` protocol.

    Raises:
        LookupError: there is no such file, or it does not define all that the protocol asks for.
    """
    file = f"src/{package.__name__.replace('.', '/')}/{name}.py"
    if name not in names(package):
        raise LookupError(f"there is no file {file} (there are: {', '.join(names(package))})")
    module = importlib.import_module(f"{package.__name__}.{name}")
    if not isinstance(module, protocol):
        raise LookupError(
            f"{file} does not define everything that {protocol.__name__} in its folder's __init__.py asks for"
        )
    return module
