"""Starts one program so that it dies with its parent: run by path, in isolated mode.

Arguments: the parent's process id, the signal to get when it dies, a uid (or "-"), the program.
Popen's preexec_fn would do the same, but is unsafe (and warned about) in a process with threads;
and only here, before the program, can an unprivileged uid be taken on without its being able
to read our interpreter.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, uid, *command = sys.argv[1:]
    # Loaded before the change of user: afterwards our own files may be out of reach.
    libc = ctypes.CDLL(None)
    if uid != "-":
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid, which forgets it.
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the parent died first")
    os.execv(command[0], command)


main()
