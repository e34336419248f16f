"""``pytest --seconds``: what each test file costs, as a table in Markdown.

CPU seconds are those of the process and of its children that have ended, and do not depend on what
else runs. A program is one that XLA compiled or that the compile cache handed back, ``made`` the
seconds that tracing, lowering and compiling took. What a shared fixture costs is counted in the file that
asked for it first.
"""

import os
import time

import pytest
from jax import monitoring

PROPERTY = "minidiff_seconds"
COLUMNS = ("tests", "wall", "cpu", "programs", "made")


class Seconds:
    def __init__(self):
        self.programs, self.made = 0, 0.0
        self.files = {}
        monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event, seconds, **_):
        if event.startswith("/jax/core/compile/"):
            self.made += seconds
            self.programs += event.endswith("backend_compile_duration")

    def now(self):
        return 1, time.perf_counter(), sum(os.times()[:4]), self.programs, self.made

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self.last = (0, *self.now()[1:])
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if (
            call.when == "teardown"
        ):  # a report travels from an xdist worker to the process that prints
            spent = [b - a for a, b in zip(self.last, self.now(), strict=True)]
            report.user_properties.append((PROPERTY, spent))
        return report

    def pytest_runtest_logreport(self, report):
        for name, spent in report.user_properties:
            if name == PROPERTY and report.when == "teardown":
                file = report.nodeid.split("::")[0]
                before = self.files.get(file, [0] * len(spent))
                self.files[file] = [a + b for a, b in zip(before, spent, strict=True)]

    def pytest_terminal_summary(self, terminalreporter):
        rows = sorted(self.files.items(), key=lambda row: -row[1][2])
        total = [sum(column) for column in zip(*self.files.values(), strict=True)]
        write = terminalreporter.write_line
        write(f"| {'file':36} | " + " | ".join(f"{name:>8}" for name in COLUMNS) + " |")
        write("| " + "-" * 36 + " | " + " | ".join(["-------:"] * len(COLUMNS)) + " |")
        for file, row in [*rows, ("all", total or [0] * len(COLUMNS))]:
            cells = " | ".join(f"{value:8.0f}" for value in row)
            write(f"| {file.removeprefix('tests/'):36} | {cells} |")
