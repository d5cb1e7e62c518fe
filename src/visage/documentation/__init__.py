"""The generated parts of README.md and docs/: `parts` lists them, `python -m visage.documentation` writes them."""

from visage.documentation.parts import PARTS, write_documentation

__all__ = ["PARTS", "write_documentation"]
