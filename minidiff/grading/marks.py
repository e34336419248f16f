"""What an instructor does with a class's verdicts: points, a file for each student, common mistakes."""

import collections
import csv
import io
import re
from pathlib import Path

from minidiff.checks.exercise import MARKS
from minidiff.errors import InputError
from minidiff.grading.grade import Graded

MOST_COMMON = 5


def points(graded: Graded) -> float:
    """The share of its exercises that are right, in percent; 0 where none could be judged."""
    return 100 * graded.right / max(len(graded.results), 1)


def as_csv(class_: list[Graded]) -> str:
    """A row for each student: 1 for what is right, 0 for what is not, nothing for what is not due."""
    names = list(dict.fromkeys(result.name for graded in class_ for result in graded.results))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["student", *names, "right", "of", "percent", "error"])
    for graded in class_:
        marks = {result.name: int(result.status == "right") for result in graded.results}
        row = [graded.name, *(marks.get(name, "") for name in names)]
        total = [graded.right, len(graded.results), f"{points(graded):.0f}", graded.error]
        # A name that a spreadsheet would compute with is a text.
        row[0] = f"'{row[0]}" if row[0][:1] in "=+-@" else row[0]
        writer.writerow([*row, *total])
    return file.getvalue().rstrip("\n")


def common_mistakes(class_: list[Graded]) -> list[str]:
    """The sentences that most students got, most common first; those that one alone got are left out."""
    told = collections.Counter(
        (result.name, result.sentence)
        for graded in class_
        for result in graded.results
        if result.status == "wrong"
    )
    common = [(pair, count) for pair, count in told.most_common(MOST_COMMON) if count > 1]
    return [f"{count} x {name}: {sentence}" for (name, sentence), count in common]


def sentences(class_: list[Graded]) -> list[str]:
    """What each student was told of what is wrong, a line each."""
    return [
        f"{graded.name}: {result.name}: {result.sentence}"
        for graded in class_
        for result in graded.results
        if result.status == "wrong"
    ]


def feedback(graded: Graded) -> str:
    """What a student is given: each exercise with its sentence, and what went wrong in the cells."""
    told = [f"- {MARKS[r.status]} **{r.name}**: {r.sentence}" for r in graded.results]
    total = f"{graded.right} of {len(graded.results)} right"
    cells = [f"- {cell}" for cell in graded.cells]
    return "\n".join(
        [
            f"# {graded.name}",
            "",
            graded.error or total,
            "",
            *told,
            *(["", "In the notebook:", "", *cells] if cells else []),
            "",
        ]
    )


def write_feedback(class_: list[Graded], folder: Path) -> None:
    """A file for each student, NAME.md; a name that lies in folders has its slashes as dashes."""
    folder.mkdir(parents=True, exist_ok=True)
    for graded in class_:
        name = re.sub(r"[^\w. -]", "-", graded.name) or "student"
        (folder / f"{name}.md").write_text(feedback(graded), encoding="utf-8")


def check_feedback(text: str | None, class_names: list[str]) -> Path | None:
    """The folder for feedback. InputError if that is a file, or two students' files would be one."""
    if text is None:
        return None
    folder = Path(text)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--feedback {folder} is not a folder")
    files = collections.Counter(re.sub(r"[^\w. -]", "-", name) for name in class_names)
    twice = [name for name, count in files.items() if count > 1]
    if twice:
        raise InputError(f"--feedback: two students' files would be {twice[0]}.md: rename one")
    return folder
