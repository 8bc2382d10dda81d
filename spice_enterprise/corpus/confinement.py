"""What the parser child gives up before it reads a foreign byte, and what it may still use: one profile per kind of parser.

In: a `Profile` and the child's own empty directory.
Out: the layers obtained, as one string (`ipc+landlock+mount+...`), `python` when the OS gave none.
Refuses: nothing; a layer that this machine does not have is missing from the string, and `sandbox.py` decides.
Not here: the rules of Landlock (`landlock.py`) and of seccomp (`syscall_filter.py`); what is parsed.

Layers: `user`, `net`, `mount`, `pid`, `ipc` are namespaces of its own, `nocaps` no privileges, `landlock` only the files
that Python needs, `seccomp` no sockets, debugging or new programs. Limits on memory, time and files are always set.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spice_enterprise.corpus import landlock, syscall_filter

ProfileName = Literal["native", "ocr", "ocr_program", "unstructured", "converter"]
NO_LAYERS: Final = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one kind of parser may use."""

    name: ProfileName
    memory_bytes: int
    """Address space of each process."""
    cpu_s: int
    """Processor time for one document."""
    wall_s: float
    """Time for one document."""
    batch: int
    """Documents that one child may read."""
    scratch_bytes: int = 64 << 20
    """Largest file, and size of the child's own directory."""
    open_files: int = 64
    may_start_programs: bool = False


PROFILES: Final[dict[ProfileName, Profile]] = {
    "native": Profile(name="native", memory_bytes=1536 << 20, cpu_s=20, wall_s=60.0, batch=20),
    # a scanned page takes about three seconds
    "ocr": Profile(name="ocr", memory_bytes=2 << 30, cpu_s=600, wall_s=900.0, batch=20),
    "ocr_program": Profile(name="ocr_program", memory_bytes=2 << 30, cpu_s=600, wall_s=900.0, batch=20, may_start_programs=True),
    "unstructured": Profile(name="unstructured", memory_bytes=4 << 30, cpu_s=120, wall_s=300.0, batch=1),
    "converter": Profile(
        name="converter", memory_bytes=4 << 30, cpu_s=120, wall_s=300.0, batch=1,
        scratch_bytes=256 << 20, open_files=256, may_start_programs=True,
    ),
}  # fmt: skip

_PROCESSES: Final = 16
_CPU_SPARE_S: Final = 30
_NEWNS: Final = 0x00020000
_NEWIPC: Final = 0x08000000
_NEWUSER: Final = 0x10000000
_NEWPID: Final = 0x20000000
_NEWNET: Final = 0x40000000
_FLAGS: Final = {"user": _NEWUSER, "net": _NEWNET, "mount": _NEWNS, "pid": _NEWPID, "ipc": _NEWIPC}
_SETS: Final = (("user", "net", "mount", "pid", "ipc"), ("net", "mount", "pid", "ipc"), ("user", "net"), ("net",))
"""What to ask for, best first: without `user` it works for root alone; some containers allow only the network."""
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_MS_BIND_ALL: Final = 0x1000 | 0x4000
_MS_PRIVATE_EVERYWHERE: Final = 0x40000 | 0x4000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION: Final = 0x20080522
_DENIED_EVENTS: Final = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.startfile")
_READABLE: Final = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/mime", "/etc/ld.so.cache",
    "/etc/localtime", "/etc/mime.types", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip
_PROGRAMS: Final = ("/usr", "/bin", "/lib", "/lib64", "/opt/libreoffice")
_PROGRAM_DATA: Final = (
    "/etc/fonts", "/etc/libreoffice", "/etc/alternatives", "/var/lib/libreoffice", "/var/spool/libreoffice",
    "/var/cache/fontconfig",
)  # fmt: skip


def denies_network(isolation: str) -> bool:
    """True when the OS, not only the interpreter, keeps a child of this level from every network."""
    return not {"net", "seccomp"}.isdisjoint(isolation.split("+"))


def weaker(one: str, other: str) -> str:
    """Return the layers that both levels have."""
    common = sorted(set(one.split("+")) & set(other.split("+")) - {NO_LAYERS})
    return "+".join(common) or NO_LAYERS


def confine(profile: Profile, scratch: str) -> str:
    """Give up what parsing does not need, and return the layers obtained. Cannot be undone.

    With a pid namespace this forks: the caller goes on as the first process of it, and the process that was there
    before only waits, so that killing it kills everything the caller ever starts.
    """
    os.nice(10)
    layers = _enter_namespaces() if sys.platform == "linux" else set()
    _set_limits(profile, is_alone="user" in layers)
    if "pid" in layers:
        _continue_in_child()
    if sys.platform == "linux":
        _end_when_out_of_cpu()
        layers |= _give_up_rights(profile, scratch, layers)
    sys.addaudithook(_refuse_sockets if profile.may_start_programs else _refuse)
    return "+".join(sorted(layers)) or NO_LAYERS


def allow_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of processor time, then end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _set_limits(profile: Profile, *, is_alone: bool) -> None:
    _limit(resource.RLIMIT_AS, profile.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, profile.scratch_bytes)
    _limit(resource.RLIMIT_NOFILE, profile.open_files)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, profile.batch * profile.cpu_s + _CPU_SPARE_S)
    # counted per user: outside a user namespace the job's own processes would count too
    if is_alone:
        _limit(resource.RLIMIT_NPROC, _PROCESSES)


def _limit(kind: int, value: int) -> None:
    """Lower one limit, never above what the parent's own hard limit allows."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # macOS refuses some limits
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (value, value))


def _enter_namespaces() -> set[str]:
    """Enter the best set of namespaces that this machine allows, and return which those are."""
    ids = f"{os.geteuid()} {os.geteuid()} 1", f"{os.getegid()} {os.getegid()} 1"
    libc = _libc()
    for names in _SETS:
        if libc.unshare(sum(_FLAGS[name] for name in names)) == 0:
            break
    else:
        return set()
    found = set(names)
    if "user" in found:
        with contextlib.suppress(OSError):
            for path, content in (("uid_map", ids[0]), ("setgroups", "deny"), ("gid_map", ids[1])):
                Path("/proc/self", path).write_text(content, encoding="ascii")
    if not _has_loopback_alone():
        found.discard("net")
    return found


def _has_loopback_alone() -> bool:
    try:
        devices = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except (OSError, ValueError):
        return False
    return {line.split(":")[0].strip() for line in devices} <= {"lo"}


def _continue_in_child() -> None:
    """Fork; the child returns as process 1 of the new pid namespace, this process waits for it and ends as it does."""
    child = os.fork()
    if child == 0:
        return
    _die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    # only the child may hold the pipes, so that its death is the end of the answers
    for handle in (0, 1):
        os.close(handle)
    os.closerange(3, 64)
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _give_up_rights(profile: Profile, scratch: str, layers: set[str]) -> set[str]:
    """Apply what must come last, when nothing needs privileges any more; return the layers gained, lost ones removed."""
    libc = _libc()
    _die_with_parent()
    writable = [scratch, "/dev/null"]
    if "mount" in layers and not _mount_scratch(scratch, profile.scratch_bytes):
        layers.discard("mount")
    if "mount" in layers and profile.may_start_programs:
        writable += _hide_shared_folders(scratch, profile.scratch_bytes)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    is_final = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    gained = {"nocaps"} if _drop_capabilities() else set()
    # both hold for this thread and what it starts, so threads that are there already would stay free
    if is_final and len(os.listdir("/proc/self/task")) == 1:
        has_local_sockets = len(writable) > 2
        gained |= {"landlock"} if _restrict_files(profile, writable) else set()
        may = {"may_start_programs": profile.may_start_programs, "has_local_sockets": has_local_sockets}
        gained |= {"seccomp"} if syscall_filter.install(**may) else set()
    return gained


def _die_with_parent() -> None:
    """Be killed when the parent dies, however it dies."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_when_out_of_cpu() -> None:
    """Let the signal end the process at once; process 1 of a pid namespace would ignore it, and Python would wait."""
    libc = _libc()
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGXCPU, ctypes.cast(libc._exit, ctypes.c_void_p))


def _mount_scratch(scratch: str, size_bytes: int) -> bool:
    """Lay a small memory file system over the empty directory: it is full at its size and gone with the child."""
    libc = _libc()
    libc.mount(None, b"/", None, _MS_PRIVATE_EVERYWHERE, None)
    options = f"size={size_bytes},mode=0700".encode()
    is_mounted: bool = libc.mount(b"scratch", scratch.encode(), b"tmpfs", _MS_NOSUID_NODEV_NOEXEC, options) == 0
    os.chdir(scratch)
    return is_mounted


def _hide_shared_folders(scratch: str, size_bytes: int) -> list[str]:
    """Lay empty folders over those where programs meet (sockets of containers, of the desktop); return the writable one.

    What Python itself needs below them is laid on top again. LibreOffice wants a socket in `/tmp`.
    """
    kept = [os.path.realpath(path) for path in (*_python_roots(), scratch)]
    if not all(_hide(folder, kept, size_bytes) for folder in ("/run", "/tmp")):  # noqa: S108 - hidden, not used
        return []
    os.chdir(scratch)
    return ["/tmp"]  # noqa: S108 - the child's own by now


def _hide(folder: str, kept: list[str], size_bytes: int) -> bool:
    if not os.path.isdir(folder):
        return True
    libc = _libc()
    handles = {path: os.open(path, os.O_PATH) for path in kept if path.startswith(f"{folder}/") and os.path.isdir(path)}
    options = f"size={size_bytes},mode=0700".encode()
    is_hidden: bool = libc.mount(b"hidden", folder.encode(), b"tmpfs", _MS_NOSUID_NODEV_NOEXEC, options) == 0
    for path, handle in handles.items():
        os.makedirs(path, exist_ok=True)
        libc.mount(f"/proc/self/fd/{handle}".encode(), path.encode(), None, _MS_BIND_ALL, None)
        os.close(handle)
    return is_hidden


def _drop_capabilities() -> bool:
    number = _CAPSET.get(os.uname().machine)
    if number is None:
        return False
    libc = _libc()
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    none = struct.pack("=6I", *[0] * 6)
    return int(libc.syscall(number, struct.pack("=Ii", _CAPABILITY_VERSION, 0), none)) == 0


def _restrict_files(profile: Profile, writable: list[str]) -> bool:
    python = _python_roots()
    if profile.may_start_programs:
        return landlock.restrict(read=(*_READABLE, *_PROGRAM_DATA), execute=(*python, *_PROGRAMS), write=writable) > 0
    return landlock.restrict(read=(*_READABLE, *python), execute=(), write=writable) > 0


def _python_roots() -> list[str]:
    return sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).resolve().parents[1]), *_python_folders()})


def _python_folders() -> Iterator[str]:
    """Yield where modules are imported from, but not a checkout that merely holds packages."""
    for folder in sys.path:
        if folder.endswith((".zip", "-packages", "lib-dynload")) or folder == os.path.dirname(os.__file__):
            yield folder


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _refuse(event: str, args: tuple[object, ...]) -> None:
    """Refuse sockets and new programs inside the interpreter, whatever the OS would allow."""
    if event.startswith(_DENIED_EVENTS):
        raise PermissionError("not allowed in the parser child")


def _refuse_sockets(event: str, args: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise PermissionError("not allowed in the parser child")
