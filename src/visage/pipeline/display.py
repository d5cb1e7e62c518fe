"""What a person sees while stages run: a line for each that runs, and one that stays for each that ends."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from visage.pipeline.jobs import Job


class Display:
    """On a terminal a table that moves; elsewhere only the lines that stay. A context manager."""

    def __init__(self, stages: int) -> None:
        self.stages, self.ended = stages, 0
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text))

    def end(self, stage: str, what: str) -> None:
        """A stage has ended."""
        self.ended += 1
        self.say(f"[{self.ended}/{self.stages}] {stage}: {what}")

    def show(self, running: Sequence[Job], left: float) -> None:
        """What runs now, and the seconds that are left."""
        table = Table.grid(padding=(0, 2))
        for job in running:
            percent = job.percent
            table.add_row(f"  {job.stage}", clock(job.seconds), f"{percent:3} %" if percent is not None else "")
        table.add_row(f"  {self.ended} of {self.stages} stages done, about {clock(left)} left")
        self.live.update(table, refresh=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes of more than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
