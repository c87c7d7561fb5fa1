"""`entcent models`: what there is, and how it gets here."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from entcent_agents.chat.downloads import Progress as PullProgress
from entcent_agents.chat.store import ModelStore


def show_models() -> None:
    """Print the catalogue, two lines a model."""
    console = Console(highlight=False, soft_wrap=True)
    for stored in ModelStore().list():
        model = stored.model
        here = "[green]here[/]" if stored.installed else f"not here: entcent models pull {model.name}"
        console.print(f"[bold]{model.name}[/]  {model.size_bytes / 1e6:,.0f} MB  {model.licence}  {here}")
        console.print(f"  {model.description}", style="dim")


def pull_model(name: str, *, force: bool) -> None:
    """Download a model with a progress bar; print where it is."""
    errors = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=errors,
    ) as bar:
        tasks: dict[str, int] = {}

        def show(progress: PullProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(f"{name}: {progress.stage}", total=progress.total_bytes)
            bar.update(tasks[progress.stage], completed=progress.done_bytes)  # type: ignore[arg-type]

        path = ModelStore().pull(name, show, force=force)
    Console().print(str(path), soft_wrap=True)
