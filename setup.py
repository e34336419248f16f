"""What pyproject.toml cannot say: packages are found, and the lessons, which lie beside them, go along.

In a wheel the lessons are a part of the package, ``minidiff/assets/lessons``; an editable installation
finds them where they are. ``minidiff.commands.lessons`` looks in both places.
"""

from setuptools import find_packages, setup

LESSONS = "minidiff.assets.lessons"

setup(
    packages=[*find_packages(include=["minidiff", "minidiff.*"]), LESSONS],
    package_dir={LESSONS: "lessons"},
    package_data={"minidiff": ["assets/**/*"], LESSONS: ["*.ipynb", "measured.json"]},
    include_package_data=False,  # only what is named here, not all that a source distribution holds
)
