"""Which files a process may still open: Linux Landlock, through its three system calls.

In: folders and files to read, to start programs from and to write.
Out: the Landlock version in force, or 0 where the kernel has none.
Refuses: every other path, for this process and what it starts; TCP from version 4; signals to the outside from version 6.
Not here: paths that are open already. Landlock checks when a file is opened, not when it is read.

https://docs.kernel.org/userspace-api/landlock.html
"""

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_FILE_RIGHTS_BY_VERSION: Final = ((1, 13), (2, 14), (3, 15), (5, 16))
"""(version, number of file rights): from version 1 bits 0-12, then one more each."""
_NET_RIGHTS: Final = 0b11
"""Binding and connecting TCP."""
_SCOPES: Final = 0b11
"""Abstract unix sockets of, and signals to, processes outside."""


def version() -> int:
    """Return the kernel's Landlock version, 0 where there is none."""
    try:
        return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))
    except (OSError, AttributeError):
        return 0


def restrict(*, read: Iterable[str], execute: Iterable[str], write: Iterable[str]) -> int:
    """Leave this thread and its children these paths only, and return the version in force (0: nothing was restricted).

    Needs `no_new_privs`. Paths that do not exist are passed over.
    """
    known = version()
    if not known:
        return 0
    rights = (1 << max(bits for since, bits in _FILE_RIGHTS_BY_VERSION if since <= known)) - 1
    attributes = struct.pack("=QQQ", rights, _NET_RIGHTS if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = int(_libc().syscall(_CREATE_RULESET, attributes, size, 0))
    if ruleset < 0:
        return 0
    try:
        readable = _READ_FILE | _READ_DIR
        for paths, access in ((read, readable), (execute, readable | _EXECUTE), (write, rights & ~_EXECUTE)):
            for path in paths:
                _allow(ruleset, path, access & rights)
        return known if int(_libc().syscall(_RESTRICT_SELF, ruleset, 0)) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            rule = struct.pack("=Qi", access if is_folder else access & _FILE_RIGHTS, handle)
            _libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(handle)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
