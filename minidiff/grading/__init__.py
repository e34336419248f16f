"""``minidiff check``: the exercises of students' notebooks, judged by someone they cannot persuade.

Two processes. The grader reads the notebook, holds the exercises and judges; it never runs a line of
the student's. The worker runs the student's cells, in a scratch folder, with limits on time and
memory, and computes what it is asked: ``my_add_noise`` of these arguments. What comes back is read as
JSON and arrays, never unpickled, and compared here. So in the student's process nothing that is
printed, patched or ended makes a wrong answer right, and a worker that hangs, dies, eats memory or
talks nonsense is ended and started again without the cell that did it.

    notebook   what the student handed in: cells, the exercises in it, the module's own functions in it
    wire       what crosses between the two processes
    worker     the student's process
    process    the grader's end of it: limits, and the student's functions from afar
    grade      a notebook's verdicts
    marks      points, feedback, the most common mistakes
    report     as text, table, CSV, JSON or JUnit XML

What this cannot defend against. The worker runs as you, on your machine:

- It may read and write what you may: your files and the network, the compile cache that both processes
  use, minidiff itself. It may end the grader, and start processes that outlive it.
- An answer may be the module's own function, fetched where no reader of the source sees it. Where
  the source shows it, the report says "uses the module's own function"; the mark stays.
- Numbers learned by heart: the arguments of each exercise are the same every time, unless ``--seed``
  draws them anew.
- Limits on memory are only as good as the platform: Linux has them, macOS and Windows do not.

So grade people you teach, not people you fear; for strangers' notebooks run it in a container without
network, as a user who owns nothing.
"""
