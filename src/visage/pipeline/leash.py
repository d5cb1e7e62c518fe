"""`python -m visage.pipeline.leash COMMAND ...`: a command that is interrupted when whoever started it is gone.

A scheduler may kill a task without warning, and then its stage would train on, unseen, and keep the next attempt out.
Standard input is a pipe of which the task holds the other end: it closes when the task ends, in whatever way.
"""

import os
import select
import signal
import subprocess
import sys

POLL_SECONDS = 0.2


def main() -> int:
    """Run the command of the command line, in this process's group; returns its exit status."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to the whole group, and what to do about it is the stage's
    while process.poll() is None:
        gone, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if gone:
            os.killpg(0, signal.SIGINT)
            break
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
