"""Which system calls a process may still make: a seccomp filter, written as its few BPF instructions.

In: whether the process may start programs, and whether they may talk over local sockets (never over a network).
Out: whether the filter is in force. It holds for every program started later as well.
Refuses: sockets, debugging, kernel objects, new namespaces; starting programs and processes unless allowed (`EPERM`).
Not here: files (`landlock.py`). Processors other than x86-64 and AArch64 have no table, so no filter.
"""

import ctypes
import errno
import os
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_AF_UNIX: Final = 1
_CLONE_THREAD: Final = 0x00010000
_CLONE_NEW: Final = 0x7E020000
"""Any of the new-namespace flags."""

_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16
_KILL: Final = 0x80000000
_ALLOW: Final = 0x7FFF0000
_ERROR: Final = 0x00050000

_X86_64: Final = {
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "open_by_handle_at": 304, "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246,
    "reboot": 169, "swapon": 167, "acct": 163,
    "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "prctl": 157,
}  # fmt: skip
_AARCH64: Final = {
    "socket": 198, "connect": 203, "accept": 202, "bind": 200, "listen": 201, "accept4": 242,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438, "kcmp": 272,
    "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "keyctl": 219, "add_key": 217, "request_key": 218,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
    "open_by_handle_at": 265, "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104,
    "reboot": 142, "swapon": 224, "acct": 89,
    "execve": 221, "execveat": 281, "clone": 220, "clone3": 435, "prctl": 167,
}  # fmt: skip
_MACHINES: Final = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
_PROGRAM_CALLS: Final = frozenset({"execve", "execveat", "fork", "vfork"})
_LOCAL_SOCKET_CALLS: Final = frozenset({"connect", "accept", "bind", "listen", "accept4"})
_WITH_ARGUMENTS: Final = ("socket", "clone", "clone3", "prctl")
_X32_BIT: Final = 0x40000000

Instruction = tuple[int, int, int, int]
"""Operation, how far to jump when true, when false, operand."""


def install(*, may_start_programs: bool, has_local_sockets: bool) -> bool:
    """Put the filter in force for this thread and what it starts; False where that is impossible. Needs `no_new_privs`."""
    machine = os.uname().machine
    program = program_for(machine, may_start_programs=may_start_programs, has_local_sockets=has_local_sockets)
    if not program:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        return int(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def program_for(machine: str, *, may_start_programs: bool, has_local_sockets: bool) -> list[Instruction]:
    """Return the filter for a processor, empty for one without a table."""
    if machine not in _MACHINES:
        return []
    architecture, numbers = _MACHINES[machine]
    kept = {*_WITH_ARGUMENTS}
    kept |= _PROGRAM_CALLS if may_start_programs else set()
    kept |= _LOCAL_SOCKET_CALLS if has_local_sockets else set()
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += _refused(_IF_AT_LEAST, _X32_BIT, errno.EPERM)
    for name, number in numbers.items():
        if name not in kept:
            program += _refused(_IF_EQUAL, number, errno.EPERM)
    # libraries fall back from clone3, whose flags a filter cannot see, to clone
    program += _refused(_IF_EQUAL, numbers["clone3"], errno.ENOSYS)
    program += _when(numbers["prctl"], _IF_EQUAL, _PR_SET_PDEATHSIG, is_refused=True)
    if may_start_programs:
        program += _when(numbers["clone"], _IF_ANY_BIT, _CLONE_NEW, is_refused=True)
    else:
        program += _when(numbers["clone"], _IF_ANY_BIT, _CLONE_THREAD, is_refused=False)
    if has_local_sockets:
        program += _when(numbers["socket"], _IF_EQUAL, _AF_UNIX, is_refused=False)
    else:
        program += _refused(_IF_EQUAL, numbers["socket"], errno.EPERM)
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _refused(test: int, number: int, error: int) -> list[Instruction]:
    return [(test, 0, 1, number), (_RETURN, 0, 0, _ERROR | error)]


def _when(number: int, test: int, operand: int, *, is_refused: bool) -> list[Instruction]:
    """Decide one call by its first argument: refused when the test holds, or when it does not."""
    return [
        (_IF_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (test, 0, 1, operand) if is_refused else (test, 1, 0, operand),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
