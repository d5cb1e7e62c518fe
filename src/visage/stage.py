"""What every stage shares: how it ends when the user can fix what went wrong."""

import os
import sys
from collections.abc import Callable

from visage.errors import UserError
from visage.fork_server import run_forked


def run_stage(main: Callable[[], None], *, fork: bool = False) -> None:
    """Call `main`; a UserError, or Ctrl-C, becomes a line on stderr and an exit status, without a traceback.

    Set VISAGE_TRACEBACK=1 to see the traceback.

    fork: leave the call to a fork of the server (`visage.fork_server`) where there is one; what takes long to import is
        imported by `main`, so that this process does not import it.
    """
    try:
        if fork:
            run_forked()
        main()
    except UserError as error:
        if os.environ.get("VISAGE_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: what was done is kept; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
