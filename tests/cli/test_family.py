import click
import pytest
from turnout_cli import family


@family.version_option
@click.group(context_settings=family.SETTINGS)
def group() -> None:
    """Does things."""


@group.command()
@click.option("--rate", type=int)
def measure(rate: int | None) -> int:
    if rate == 0:
        raise click.ClickException("first line\nsecond line")
    if rate == 1:
        raise click.Abort
    return rate or 0


def outcome(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        family.run(group, "turnout-x", arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["measur"], "turnout-x: no such command 'measur'; did you mean 'measure'? see turnout-x --help\n"),
        (["other"], "turnout-x: no such command 'other'; see turnout-x --help\n"),
        (["measure", "--rat=1"], "turnout-x: no such option '--rat'; did you mean '--rate'? see turnout-x measure --help\n"),
        (["measure", "--x"], "turnout-x: no such option '--x'; see turnout-x measure --help\n"),
        (["measure", "more"], "turnout-x: got unexpected extra argument (more); see turnout-x measure --help\n"),
        (
            ["measure", "--rate=many"],
            "turnout-x: invalid value for '--rate': 'many' is not a valid integer; see turnout-x measure --help\n",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant_and_where_to_read_on(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(*arguments) == 2
    assert capsys.readouterr().err == text


def test_every_line_of_an_error_begins_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("measure", "--rate=0") == 1
    assert capsys.readouterr().err == "turnout-x: first line\nturnout-x: second line\n"


def test_the_status_is_the_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert [outcome("measure", "--rate=3"), outcome("measure"), outcome("measure", "--rate=1")] == [3, 0, 130]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["measure", "-h"], ["--version"]])
def test_help_and_version_go_to_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*arguments) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("turnout-x " if arguments == ["--version"] else "Usage: turnout-x")
    assert shown.err == ""


def test_without_arguments_a_group_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome() == 2
    assert "measure" in capsys.readouterr().err


@click.command(context_settings=family.SETTINGS)
@click.option("--host")
@click.option("--count", type=click.IntRange(min=1))
@click.option("--rate", type=float, metavar="100/s")
@click.option("--into", type=click.Path(file_okay=False))
@click.option("--labels", type=click.Path(dir_okay=False))
@click.option("--level", type=click.Choice(["low", "high"]))
@click.option("--force", is_flag=True)
def options(**given: object) -> None:
    """Has options of every type."""


@pytest.mark.parametrize("command", [options, click.Group("all", {"options": options})])
def test_the_values_of_options_have_plain_names(command: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        family.run(command, "turnout-x", ["options", "--help"] if isinstance(command, click.Group) else ["--help"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("-")]
    assert lines == [
        "--host HOST",
        "--count N [x>=1]",
        "--rate 100/s",
        "--into DIR",
        "--labels FILE",
        "--level [low|high]",
        "--force",
        "-h, --help Show this message and exit.",
    ]
