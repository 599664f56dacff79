#!/usr/bin/env python3
"""Runs a command and writes how long it took, from its making to its end.

Usage: took.py FILE COMMAND [ARGUMENT...]     FILE gets microseconds; ends as the command did

A shell forks itself first, which takes a millisecond or two and is none of the command's work: this spawns it
without a copy of its own memory (posix_spawn, vfork(2)).
"""

import os
import sys
import time

file, *command = sys.argv[1:]
begun = time.monotonic_ns()
child = os.posix_spawnp(command[0], command, os.environ)
_, status = os.waitpid(child, 0)
took = time.monotonic_ns() - begun
with open(file, "w") as out:
    print(took // 1000, file=out)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
