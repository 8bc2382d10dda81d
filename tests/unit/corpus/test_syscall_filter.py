import errno
import struct

import pytest

from spice_enterprise.corpus.syscall_filter import _AARCH64, _X86_64, program_for

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {"x86_64": _X86_64, "aarch64": _AARCH64}
ALLOWED = 0x7FFF0000
KILLED = 0x80000000


def run(program, number, *, architecture, argument=0):
    """Run the filter as the kernel would: one accumulator, forward jumps only."""
    data = struct.pack("=IIQQ", number, architecture, 0, argument)
    value = position = 0
    while True:
        operation, if_true, if_false, operand = program[position]
        position += 1
        if operation == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            position += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def ask(request):
    machine = request.param

    def asked(name, *, argument=0, programs=False, sockets=False, architecture=None):
        program = program_for(machine, may_start_programs=programs, has_local_sockets=sockets)
        number = NUMBERS[machine][name] if isinstance(name, str) else name
        verdict = run(program, number, architecture=architecture or ARCHITECTURES[machine], argument=argument)
        if verdict in (ALLOWED, KILLED):
            return "allowed" if verdict == ALLOWED else "killed"
        assert verdict & 0xFFFF0000 == 0x00050000
        return errno.errorcode[verdict & 0xFFFF]

    return asked


@pytest.mark.parametrize(
    "name", ["socket", "connect", "ptrace", "execve", "execveat", "mount", "unshare", "bpf", "io_uring_setup"]
)
def test_refused_by_default(ask, name):
    assert ask(name) == "EPERM"


def test_ordinary_calls_pass(ask):
    assert ask(0) == "allowed"
    assert ask(1) == "allowed"


def test_another_processor_is_killed(ask):
    assert ask(0, architecture=0x40000003) == "killed"


def test_threads_but_no_processes(ask):
    assert ask("clone", argument=0x00010000 | 0x100) == "allowed"
    assert ask("clone", argument=17) == "EPERM"
    assert ask("clone3") == "ENOSYS"


def test_converters_start_programs_but_no_namespaces(ask):
    assert ask("execve", programs=True) == "allowed"
    assert ask("clone", argument=17, programs=True) == "allowed"
    assert ask("clone", argument=0x10000000 | 17, programs=True) == "EPERM"
    assert ask("clone3", programs=True) == "ENOSYS"
    assert ask("ptrace", programs=True) == "EPERM"
    assert ask("socket", argument=1, programs=True) == "EPERM"


def test_local_sockets_are_the_only_ones(ask):
    assert ask("socket", argument=1, sockets=True) == "allowed"
    assert ask("socket", argument=2, sockets=True) == "EPERM"
    assert ask("socket", argument=16, sockets=True) == "EPERM"
    assert ask("connect", sockets=True) == "allowed"


def test_the_signal_at_the_parents_death_cannot_be_switched_off(ask):
    assert ask("prctl", argument=1) == "EPERM"
    assert ask("prctl", argument=15) == "allowed"


def test_the_second_numbering_of_x86_is_refused():
    program = program_for("x86_64", may_start_programs=True, has_local_sockets=True)
    assert run(program, 0x40000000, architecture=ARCHITECTURES["x86_64"]) == 0x00050000 | errno.EPERM


def test_both_tables_name_the_same_calls():
    assert set(_X86_64) - set(_AARCH64) == {"fork", "vfork"}
    assert set(_AARCH64) <= set(_X86_64)
    assert len(set(_X86_64.values())) == len(_X86_64)
    assert len(set(_AARCH64.values())) == len(_AARCH64)


def test_an_unknown_processor_has_no_filter():
    assert program_for("riscv64", may_start_programs=False, has_local_sockets=False) == []
