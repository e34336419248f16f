"""What ``minidiff check`` prints: lines for one notebook, a table for many, CSV, JSON, JUnit XML."""

import argparse
import contextlib
import contextvars
import dataclasses
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from minidiff import checks, tables
from minidiff.checks.exercise import MARKS, drawn_anew
from minidiff.errors import InputError
from minidiff.files import check_output
from minidiff.grading import marks
from minidiff.grading.grade import Graded, grade, tidy
from minidiff.grading.notebook import Notebook, find, read
from minidiff.grading.process import Limits

ABSENT = "·"  # an exercise that is not of a student's lesson


def lines(graded: Graded) -> str:
    """One notebook: a line for each exercise, the total, and what went wrong in its cells."""
    wide = max(len(result.name) for result in graded.results)
    told = [
        f"{MARKS[r.status]} {r.name.ljust(wide)}  {r.sentence}{f' ({r.note})' if r.note else ''}"
        for r in graded.results
    ]
    return "\n".join([*told, _total(graded), *graded.cells])


def _total(graded: Graded) -> str:
    return f"{graded.right} of {len(graded.results)} right"


def table(class_: list[Graded]) -> str:
    """Students by exercises; below it what each was told, what most were told, and notes."""
    names = list(dict.fromkeys(result.name for graded in class_ for result in graded.results))
    rows = [["", *names, "right"]]
    for graded in class_:
        shown = {result.name: MARKS[result.status] for result in graded.results}
        total = f"{graded.right}/{len(graded.results)}"
        rows.append([graded.name, *(shown.get(name, ABSENT) for name in names), total])
    solved = [r.name for graded in class_ for r in graded.results if r.status == "right"]
    asked = [r.name for graded in class_ for r in graded.results]
    shares = [f"{solved.count(name)}/{asked.count(name)}" for name in names]
    rows.append(["right", *shares, f"{len(solved)}/{len(asked)}"])
    notes = [
        f"{graded.name}: {note}"
        for graded in class_
        for note in [
            *filter(None, [graded.error]),
            *(f"{result.name} {result.note}" for result in graded.results if result.note),
            *graded.cells,
        ]
    ]
    common = marks.common_mistakes(class_)
    parts = [
        [tables.plain(rows, "<>")],
        notes,
        marks.sentences(class_),
        ["most common:", *common] if common else [],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def as_json(class_: list[Graded]) -> str:
    """Everything, for a program."""
    students = [
        {
            "student": graded.name,
            "file": graded.file,
            "right": graded.right,
            "of": len(graded.results),
            "exercises": [dataclasses.asdict(result) for result in graded.results],
            "cells": list(graded.cells),
            "error": graded.error or None,
        }
        for graded in class_
    ]
    return json.dumps({"students": students}, indent=2)


def as_junit(class_: list[Graded]) -> str:
    """A test suite for each student, a test case for each exercise: wrong fails, blank is skipped."""
    root = ElementTree.Element("testsuites", name="minidiff check")
    for graded in class_:
        statuses = [result.status for result in graded.results]
        counts = {
            "tests": len(statuses),
            "failures": statuses.count("wrong"),
            "skipped": statuses.count("not attempted"),
            "errors": int(bool(graded.error)),
        }
        suite = ElementTree.SubElement(
            root, "testsuite", name=graded.name, **{k: str(n) for k, n in counts.items()}
        )
        for result in graded.results:
            case = ElementTree.SubElement(
                suite, "testcase", classname=graded.name, name=result.name
            )
            if result.status != "right":
                kind = "failure" if result.status == "wrong" else "skipped"
                ElementTree.SubElement(case, kind, message=result.sentence)
            if result.note:
                ElementTree.SubElement(case, "system-out").text = result.note
        if graded.error:
            case = ElementTree.SubElement(suite, "testcase", classname=graded.name, name="notebook")
            ElementTree.SubElement(case, "error", message=graded.error)
        if graded.cells:
            ElementTree.SubElement(suite, "system-err").text = "\n".join(graded.cells)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def run(args: argparse.Namespace, lesson: str = "") -> None:
    """The command; a lesson's name makes its exercises due.

    InputError, before anything is run, where a file cannot be graded. Of those that were merely
    found in a folder one may be unreadable: that is told in its row.
    """
    out = _out(args.out)
    known, handed_in = checks.exercises(), []
    for path, name in find(args.files):
        try:
            handed_in.append(_open(path, tidy(name), known, lesson))
        except InputError as error:
            if path in map(Path, args.files):  # asked for by name
                raise
            handed_in.append(Graded(tidy(name), str(path), error=tidy(str(error))))
    if all(isinstance(work, Graded) for work in handed_in):
        raise InputError(handed_in[0].error)
    names = [work.name if isinstance(work, Graded) else work[0].name for work in handed_in]
    folder = marks.check_feedback(args.feedback, names)
    seconds = args.cell_seconds
    limits = Limits(seconds, seconds / 3, 10 * seconds, args.memory)
    class_ = list(_class(handed_in, limits, args.jobs, args.seed))
    if folder is not None:
        marks.write_feedback(class_, folder)
    text = _form(args)(class_)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        print(f"written: {out}")
    below = [work.name for work in class_ if marks.points(work) < args.fail_under]
    if below:
        print(f"below {args.fail_under:g}% right: {', '.join(below)}", file=sys.stderr)
        raise SystemExit(1)


def _form(args: argparse.Namespace):
    """The writer that was asked for."""
    for asked, form in ((args.json, as_json), (args.junit, as_junit), (args.csv, marks.as_csv)):
        if asked:
            return form
    return lambda class_: lines(class_[0]) if len(class_) == 1 else table(class_)


def _class(handed_in: list, limits: Limits, jobs: int, seed: int) -> Iterator[Graded]:
    """The class in its order, so many notebooks at a time; each one is told as it is done."""
    alone = len(handed_in) == 1

    def judged(work) -> Graded:
        if isinstance(work, Graded):
            return work
        return _grade(*work, limits, alone=alone)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        anew = drawn_anew(seed) if seed else contextlib.nullcontext()
        with anew:  # a thread has a context of its own
            begun = [
                pool.submit(contextvars.copy_context().run, judged, work) for work in handed_in
            ]
        for one in begun:
            work = one.result()
            if not alone and not work.error:
                print(f"{work.name}: {_total(work)}", file=sys.stderr)
            yield work


def _grade(notebook: Notebook, exercises: list, limits: Limits, *, alone: bool) -> Graded:
    """A student whose process cannot be started costs no other the marks."""
    try:
        return grade(notebook, exercises, limits)
    except InputError as error:
        if alone:
            raise
        return Graded(notebook.name, str(notebook.path), error=tidy(str(error)))


def _open(path: Path, name: str, known: dict, lesson: str) -> tuple[Notebook, list]:
    notebook = read(path, name)
    exercises = notebook.exercises(known, lesson)
    if not exercises:
        raise InputError(f"{path} has no exercise in it")
    return notebook, exercises


def _out(text: str | None) -> Path | None:
    """Where to write. InputError where that cannot be, or would be over a student's work."""
    if text is None:
        return None
    out = Path(text)
    if out.suffix in (".ipynb", ".py"):
        raise InputError(
            f"--out {out} would be a notebook or a script; name it .txt, .json or .xml"
        )
    check_output("--out", out)
    return out
