"""The `posenc` command. Without its extra it says in one sentence how to install it."""

import contextlib
import enum
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from posenc import __version__
from posenc.conformance import columns, report, run
from posenc.conformance.cases import families
from posenc.interop import checkpoint_layout
from posenc.interop.attention_config import attention_by_layer, layout_by_config
from posenc.interop.huggingface_record import load
from posenc.interop.tensor_names import summary
from posenc.spec.plan import PairLayout

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] not in ("typer", "rich"):
        raise
    MISSING = "the posenc command needs typer and rich: pip install 'posenc[cli]'"
else:
    MISSING = ""


def main() -> None:
    """Run the command line; the entry point `posenc`."""
    if MISSING:
        sys.stderr.write(MISSING + "\n")
        sys.exit(3)
    # what schedulers send ends the program as Ctrl-C does: a file that is half written is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = _application()(standalone_mode=False)
    except Exception as error:
        say = getattr(error, "format_message", None)  # wrong usage, as the parser of the command line puts it
        if say is None and not isinstance(error, UsageError | OSError):
            raise
        text = " ".join((say() if say else str(error)).split())
        # a name in a file, or of one, may hold what moves the cursor
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        sys.stderr.write(f"posenc: {text}\n")
        code = 2
    sys.exit(code)


class UsageError(ValueError):
    """The command was asked for something that does not exist; the message says what does."""


def check(names: Sequence[str], *, as_json: bool, junit: Path | None) -> int:
    """Run the columns called `names`, or all of them, print what came of it, and give the exit code."""
    try:
        wanted = {columns.column(name) for name in names}
    except ValueError as error:
        raise UsageError(f"--column: {error}") from None
    if junit is not None and (not junit.name or junit.is_dir() or not os.access(junit.parent, os.W_OK)):
        raise UsageError(f"--junit: expected a file in a folder that can be written, received {str(junit)!r}")
    chosen = [column for column in columns.COLUMNS if not wanted or column in wanted]
    vectors = families()
    with _progress() as announce:
        # what was asked for and cannot run is a failure, not a row that says so
        results = list(run.check(chosen, vectors, announce, required=bool(names)))
    if as_json:
        print(report.as_json(results, vectors))  # noqa: T201 - the answer belongs on standard output
    else:
        _print(results)
    if junit is not None:
        try:
            _write(junit, report.as_junit(results))
        except OSError as error:
            raise UsageError(f"--junit: cannot write {junit}: {error.strerror}") from None
    return report.exit_code(results)


class Layout(enum.StrEnum):
    """What --to and --from may be."""

    HALF = "half"
    INTERLEAVED = "interleaved"


def convert_layout(
    source: Path, target: Path, *, config: Path, to: Layout, said: Layout | None, keep: Sequence[str]
) -> None:
    """Write the checkpoint `source` as `target`, its query and key projections permuted, and print which these were."""
    layouts: dict[Layout, PairLayout] = {Layout.HALF: "half", Layout.INTERLEAVED: "interleaved"}
    try:
        record = load("--config", config)
        conversion = checkpoint_layout.prepare(
            source,
            attention_by_layer(record),
            to=layouts[to],
            by_config=layout_by_config(record),
            said=None if said is None else layouts[said],
            keep=keep,
        )
        with _bar(conversion.size) as announce:
            conversion.write(target, announce)
    except ValueError as error:  # of a specification, a config or a checkpoint
        raise UsageError(str(error)) from None
    print(f"Permuted {len(conversion.permuted)} tensors, now {to}:")  # noqa: T201
    for name in summary(conversion.permuted):
        print(f"  {name!r:.200}")  # noqa: T201
    print(f"Copied {conversion.copied} tensors. The config is not changed.")  # noqa: T201


def port(plan: Path, source: Path, target: Path, *, template: Path | None, dry_run: bool) -> None:
    """Write the tensors of `source` as `target`, as `plan` says, and print what was moved, left out and kept."""
    try:
        from posenc.interop import port_files, port_listing  # noqa: PLC0415 - NumPy, which others do without

        said = port_files.read_plan(plan)
        with port_files.prepared(said, source, target, template=template) as ready:
            if not dry_run:
                with _bar(ready.size, "porting") as announce:
                    ready.write(announce)
            lines = port_listing.listing(said, ready.steps, ready.left_out, ready.kept)
    except ModuleNotFoundError as missing:
        if missing.name not in ("numpy", "ml_dtypes", "h5py"):
            raise
        raise UsageError(f"posenc port needs {missing.name}: pip install 'posenc[interop]'") from None
    except ValueError as error:  # of a plan or a file
        raise UsageError(str(error)) from None
    for line in lines:
        print(line)  # noqa: T201
    print("Nothing was written." if dry_run else f"Written: {str(target)!r}")  # noqa: T201


def _application() -> "typer.Typer":
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @application.callback(invoke_without_command=True)
    def posenc(
        context: typer.Context,
        show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    ) -> None:
        """The reference for transformer positional encodings."""
        if show:
            typer.echo(f"posenc {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(2)

    @application.command("check")
    def command(
        column: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME", help="Run this column or variant (numpy, torch, torch:inductor, ...); may be repeated."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
        junit: Annotated[Path | None, typer.Option(help="Write the results to this file as JUnit XML.")] = None,
    ) -> None:
        """Check every installed column against the vectors.

        A column is the implementation for one framework, a variant a way to run it: on the host, compiled, on a GPU.

        Exit code 0: what ran is conformant; 1: something is not, or a column named by --column cannot run; 2: wrong
        usage; 3: nothing ran.
        """
        raise typer.Exit(check(column or [], as_json=as_json, junit=junit))

    @application.command("convert-layout")
    def convert(
        source: Annotated[Path, typer.Argument(metavar="IN", help="A .safetensors file, an index, or a folder.")],
        target: Annotated[Path, typer.Argument(metavar="OUT", help="A name that does not exist yet.")],
        config: Annotated[Path, typer.Option(help="The model's config.json, or the folder that has it.")],
        to: Annotated[Layout, typer.Option(help="The layout to be written.")],
        said: Annotated[
            Layout | None, typer.Option("--from", help="The layout of IN, where its config does not tell it.")
        ] = None,
        keep: Annotated[
            list[str] | None,
            typer.Option(metavar="PATTERN", help="Copy these tensors as they are ('visual.*'); may be repeated."),
        ] = None,
    ) -> None:
        """Permute the query and key projections of a checkpoint from one pair layout to the other.

        IN may be a safetensors file, an index of shards or a folder with one of them; then OUT becomes a folder. Every
        other tensor is copied byte for byte. What looks like a projection and is not known is refused by name.

        Exit code 0: OUT is complete; 2: it was not written, and the message says why.
        """
        convert_layout(source, target, config=config, to=to, said=said, keep=keep or [])

    @application.command("port")
    def port_command(
        plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="Which tensor becomes which.")],
        source: Annotated[
            Path, typer.Argument(metavar="IN", help="A .safetensors, .npz, .weights.h5 or .keras file, or a folder.")
        ],
        target: Annotated[
            Path, typer.Argument(metavar="OUT", help="A name that does not exist yet; its suffix says the format.")
        ],
        template: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Saved from the target model; .weights.h5 and .keras need one."),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and write nothing.")] = False,
    ) -> None:
        """Carry the tensors of a checkpoint to another framework, as a plan says.

        IN may be a safetensors file, an index of shards, a folder with one of them, an .npz or a file of Keras. What
        the plan does not account for is refused by name; pickles are never opened. Tensors may be larger than memory.

        Exit code 0: OUT is complete, or would be; 2: it was not written, and the message says why.
        """
        port(plan, source, target, template=template, dry_run=dry_run)

    return application


def _print(results: Sequence[run.Result]) -> None:
    console = Console()
    if console.is_terminal:
        styles = {run.CONFORMANT: "green", run.NOT_CONFORMANT: "bold red", run.NOT_RUN: "dim"}
        table = Table(*report.HEADER, box=None, pad_edge=False)
        for result in results:
            # as Text: a row holds brackets that markup would swallow
            table.add_row(*(Text(cell) for cell in report.row(result)), style=styles[result.verdict])
        console.print(table)
    else:
        print(report.table(results))  # noqa: T201
    for name, complaints in report.complaints(results).items():
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        print(f"{name}: {complaints[0]}{more}")  # noqa: T201
    print(report.summary(results))  # noqa: T201


@contextlib.contextmanager
def _progress() -> Iterator[run.Announce]:
    """What is running, on standard error where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield lambda text: status.update(Text(text))


@contextlib.contextmanager
def _bar(size: int, what: str = "converting") -> Iterator[checkpoint_layout.Announce]:
    """Bytes done, on standard error where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    parts = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True) as progress:
        task = progress.add_task(what, total=size)
        yield lambda count: progress.advance(task, count)


def _write(path: Path, text: str) -> None:
    """Beside the file first: a reader never sees half of it."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        beside = Path(folder) / path.name
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
