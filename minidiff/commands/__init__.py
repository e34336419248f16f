"""A file for each verb of the command. Those that begin with an underscore hold what verbs share.

A verb's docstring is its help: the first line stands in the list of ``minidiff --help``.
``arguments(parser)`` adds its arguments and ``run(args)`` does it. ``minidiff.cli`` loads only the
verb that it needs, so what takes long to import is imported inside of functions.
"""
