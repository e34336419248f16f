"""Hostile notebooks for ``check``, results for ``bench --compare``, prepared data sets.

Handled rather than refused, as the tests at the end say: results with fields that nobody knows, and
times so small that their logarithm is far from zero.
"""

import json
import os
from pathlib import Path

import pytest
from hostile import handled, refused
from hostile_files import ARCHIVES, pickled

pytestmark = pytest.mark.usefixtures("place")


# Notebooks


def notebook(*cells, **more):
    """A notebook's bytes; a cell is its source, or the whole of it."""
    made = [
        cell
        if not isinstance(cell, str)
        else {"cell_type": "code", "source": cell, "metadata": {}, "outputs": [], "id": "a"}
        for cell in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more})


NOTEBOOKS = {
    "nothing": "",
    "NULs": "\0" * 50,
    "a word": "hello",
    "null": "null",
    "a number": "4",
    "deep": '{"cells":' * 100_000,
    "deep and closed": "[" * 100_000 + "]" * 100_000,
    "5000 digits": '{"nbformat": ' + "9" * 5000 + "}",
    "no cells": '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "no version": '{"cells": []}',
    "version 999": notebook(nbformat=999),
    "version in words": notebook(nbformat="four"),
    "cells in braces": notebook(cells={}),
    "cells of numbers": notebook(1, 2),
    "a cell of no kind": notebook({"source": "x = 1"}),
    "a source of numbers": notebook({"cell_type": "code", "source": [1, 2], "metadata": {}}),
    "a source null": notebook({"cell_type": "code", "source": None, "metadata": {}}),
    "metadata in a list": notebook("x = 1", metadata=[]),
    "a lone surrogate": notebook("x = '\ud800'"),
    "no exercise": notebook("import os", "os.makedirs('executed')"),
}


@pytest.mark.parametrize("what", NOTEBOOKS)
def test_a_notebook_that_is_none(capsys, place, what):
    Path("work.ipynb").write_text(NOTEBOOKS[what])
    refused(capsys, place, ["check", "work.ipynb"], "work.ipynb")


def pipe(name):
    os.mkfifo(name)


def zeros(name):
    os.symlink("/dev/zero", name)


def loop(name):
    os.symlink(name, name)


@pytest.mark.parametrize("make", [pipe, zeros, loop])
@pytest.mark.parametrize("name", ["work.ipynb", "work.py"])
def test_a_notebook_of_another_kind(capsys, place, make, name):
    make(name)
    refused(capsys, place, ["check", name], name)


@pytest.mark.parametrize("name", ["work.ipynb", "work.py"])
def test_a_notebook_that_is_a_pickle(capsys, place, name):
    Path(name).write_bytes(pickled(place / "executed"))
    refused(capsys, place, ["check", name], name, "cannot be read as a notebook")


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_notebooks(capsys, place, name):
    Path(name).write_bytes(ARCHIVES[name](place / "executed"))
    refused(capsys, place, ["check", name], name, "is not a notebook")


def test_a_folder_of_links(capsys, place):
    """Neither round in circles nor out of it."""
    Path("class").mkdir()
    os.symlink("..", "class/up")
    os.symlink("loop.ipynb", "class/loop.ipynb")
    os.mkfifo("class/pipe.ipynb")
    refused(capsys, place, ["check", "class"], "class holds no notebooks")


def test_a_name_that_steers_a_terminal(capsys, place):
    name = "\x1b[2J\u202e\n.ipynb"
    Path(name).write_text("hello")
    refused(capsys, place, ["check", name], "\\x1b[2J\\u202e .ipynb cannot be read")


# Results of bench

MACHINE = {"cpu": "Abacus", "cpu_count": 2, "devices": ["cpu"]}


def results(row=(0.1, 0.2, 0.3), machine=MACHINE, **more):
    return {
        "sum_2_cores": {"machine": machine, "contenders": {"ours": {"quartiles_s": row}}, **more}
    }


def machine(**changes):
    return results(machine=MACHINE | changes)


RESULTS = {
    "null": None,
    "a list": [1],
    "a list inside": {"sum": [1]},
    "no machine": {"sum": {"contenders": {}}},
    "a machine in words": results(machine="Abacus"),
    "no cpu": results(machine={"cpu_count": 2, "devices": ["cpu"]}),
    "no devices": machine(devices=[]),
    "devices null": machine(devices=None),
    "devices of a number": machine(devices=3),
    "no contenders": {"sum": {"machine": MACHINE}},
    "contenders in a list": {"sum": {"machine": MACHINE, "contenders": [1]}},
    "a contender of a number": {"sum": {"machine": MACHINE, "contenders": {"ours": 1}}},
    "two quartiles": results((0.1, 0.2)),
    "four quartiles": results((0.1, 0.2, 0.3, 0.4)),
    "quartiles in a word": results("abc"),
    "quartiles of words": results(("a", "b", "c")),
    "quartiles of truth": results((True, True, True)),
    "quartiles of lists": results(([1], [2], [3])),
    "quartiles null": results(None),
    "no time at all": results((0, 0, 0)),
    "negative times": results((-1, 1, 2)),
    "NaN": results((float("nan"),) * 3),
    "infinity": results((1, 2, float("inf"))),
    "a huge number": results((1, 2, 10**400)),
    "less than a picosecond": results((5e-324, 1, 2)),
    "ceilings in a list": results(ceiling_gflops=[1]),
    "a ceiling in words": results(ceiling_gflops={"float32": "fast"}),
    "a ceiling below zero": results(ceiling_gflops={"float32": -1.0}),
}


@pytest.mark.parametrize("what", RESULTS)
def test_results_that_are_none(capsys, place, what):
    Path("old.json").write_text(json.dumps(RESULTS[what]))
    Path("good.json").write_text(json.dumps(results()))
    said = "old.json holds no results"
    refused(capsys, place, ["bench", "--compare", "old.json", "--with", "good.json"], said)
    refused(capsys, place, ["bench", "--compare", "good.json", "--with", "old.json"], said)
    refused(capsys, place, ["bench", "sum", "--out", "old.json"], "no benchmark 'sum'")
    refused(capsys, place, ["bench", "conv", "--out", "old.json"], said)


BYTES = {
    "nothing": b"",
    "deep": b'{"a":' * 100_000,
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "not UTF-8": b"\xff",
    "40 MB": b" " * 40_000_000,
    "a pickle": pickled("executed"),
}


@pytest.mark.parametrize("what", BYTES)
def test_results_that_are_no_json(capsys, place, what):
    Path("old.json").write_bytes(BYTES[what])
    refused(capsys, place, ["bench", "--compare", "old.json", "--with", "old.json"], "old.json")


@pytest.mark.parametrize("make", [pipe, zeros, loop, os.mkdir])
def test_results_of_another_kind(capsys, place, make):
    make("old.json")
    refused(capsys, place, ["bench", "--compare", "old.json", "--with", "old.json"], "old.json")


def test_results_with_names_that_steer(capsys, place):
    machine = MACHINE | {"cpu": "\x1b[2J\n\u202e", "cpu_count": 3}
    Path("old.json").write_text(json.dumps(results(machine=machine)))
    Path("new.json").write_text(json.dumps(results()))
    command = ["bench", "--compare", "old.json", "--with", "new.json"]
    refused(capsys, place, command, "different machines", "\\x1b[2J \\u202e")


# Data sets that were prepared by others

TFDS = {
    "a file": lambda folder: folder.write_text("x"),
    "an empty folder": lambda folder: folder.mkdir(),
    "no description": lambda folder: (folder / "1.0.0").mkdir(parents=True),
    "a description that is none": lambda folder: describe(folder, b"hello"),
    "a deep description": lambda folder: describe(folder, b"[" * 100_000),
    "a description of lists": lambda folder: describe(folder, b'{"name": [1], "splits": 3}'),
}


def describe(folder, content):
    (folder / "1.0.0").mkdir(parents=True)
    (folder / "1.0.0" / "dataset_info.json").write_bytes(content)
    (folder / "1.0.0" / "features.json").write_bytes(content)


@pytest.mark.parametrize("what", TFDS)
def test_a_data_set_that_is_none(capsys, place, what):
    (place / "tfds").mkdir()
    TFDS[what](place / "tfds" / "cats")
    refused(capsys, place, ["data", "tfds:cats"], "cats")


# Handled


def test_small_times_and_unknown_fields(capsys, place):
    found = results((1e-9, 1e-9, 1e9), poem="roses", ceiling_gflops={"float64": "?"})
    Path("old.json").write_text(json.dumps(results()))
    Path("new.json").write_text(json.dumps(found))
    for old, new in (("old", "old"), ("old", "new"), ("new", "old")):
        command = ["bench", "--compare", f"{old}.json", "--with", f"{new}.json"]
        handled(capsys, place, command, "geometric mean of 1: ")
