"""`python -m visage.documentation`: bring the pages of the project in the working directory up to date."""

from pathlib import Path

from visage.documentation.parts import write_documentation

for name in write_documentation(Path.cwd()):
    print(f"{name}: updated")
