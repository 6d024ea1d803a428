"""What closes the world to a submission's process. Run inside the child, before the submission is read.

Three layers, each of which works without rights of any kind:

- `limit_resources`: processor time, memory, size and number of open files (POSIX).
- The kernel's: `restrict_files` (Landlock, Linux 5.13 and later: what may be read and written) and
  `close_calls` (seccomp, Linux: no new process, no program run, no socket, no signal to others, no change of a
  file's mode). A submission cannot undo them.
- `watch`: an audit hook of the interpreter, which says the same in Python's terms on every system. A determined
  submission can get round it: it is there for what the kernel's layers lack, and for the clear error messages.

Each returns what it could not do, as sentences for the report; none is an error.
"""

import ctypes
import fcntl
import os
import platform
import resource
import signal
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
# Rights to files, bit by bit: execute, write, read, list, remove a folder or a file, make seven kinds of file, and from
# later versions of Landlock move to another folder, truncate, control a device.
READ, LIST, WRITE_DEVICE = 1 << 2, 1 << 3, 1 << 1 | 1 << 2
ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # by version; since 5, 16 bits
EXECUTE, FILE_RIGHTS = 1 << 0, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15

# System calls refused, by their numbers on x86_64 and aarch64 (None: not there).
REFUSED = {
    # new processes, other programs
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    # network; io_uring would do the same past this filter
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # other processes: signals, memory, files, priorities
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    # what outlives the process, or is memory that no limit counts
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # modes, owners, times and attributes of files, which Landlock leaves open
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}
# Refused unless the process named in the first argument is the caller: 0 stands for it, but for kill() for its group.
ONLY_ITSELF = {"kill": (62, 129), "tgkill": (234, 131)}
ONLY_ITSELF_OR_ZERO = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
CLONE, CLONE3, FCNTL = (56, 220), (435, 435), (72, 25)
CLONE_THREAD, EPERM, ENOSYS = 0x10000, 1, 38
SIGNAL_COMMANDS = (8, 10, 15)  # fcntl: send a signal to another process when a file is ready
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

NO_LANDLOCK = "files of this machine are closed to the submission by the interpreter only: there is no Landlock here"
NO_SECCOMP = (
    "new processes, signals and the network are closed to the submission by the interpreter only: "
    "there is no seccomp here"
)

_libc = ctypes.CDLL(None, use_errno=True)


def limit_resources(cpu_seconds: int, memory_bytes: int, file_bytes: int, processes: int | None) -> list[str]:
    """`processes`: how many more than there are now; None where the kernel allows none at all."""
    notes = []
    limits = {
        "CPU": (cpu_seconds, cpu_seconds + 1),  # at the first SIGXCPU, at the second SIGKILL
        "AS": (memory_bytes, memory_bytes),
        "FSIZE": (file_bytes, file_bytes),
        "CORE": (0, 0),
        "NOFILE": (64, 64),
    }
    if processes is not None and (own := _own_processes()) is not None:
        most = own + processes  # of the user, not of this process; the kernel exempts root
        limits["NPROC"] = (most, most)
    for name, (soft, hard) in limits.items():
        number = getattr(resource, "RLIMIT_" + name, None)
        try:
            most = resource.getrlimit(number)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError, TypeError):
            notes.append(f"no limit on {name.lower()} could be set")
    if sys.platform == "darwin":
        notes.append("memory is not limited on macOS")
    return notes


def _own_processes() -> int | None:
    """How many threads of processes this user has now; None where there is no /proc."""
    count, user = 0, os.getuid()
    try:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    if os.stat("/proc/" + name).st_uid == user:
                        count += len(os.listdir(f"/proc/{name}/task"))
                except OSError:
                    pass
    except OSError:
        return None
    return count


def die_with_parent(lifeline: int) -> None:
    """Ask the kernel to kill this process when the other end of the pipe `lifeline` is closed, so when the parent dies.

    PR_SET_PDEATHSIG would fire when the thread that started the child ends, which may be long before the parent does.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        try:
            if os.read(lifeline, 1) == b"":
                os._exit(0)
        except BlockingIOError:
            pass


def restrict_files(readable: list[str], writable: str, hidden: str) -> list[str]:
    """Landlock: reading below `readable` but not below `hidden`; below `writable` all but running programs.

    Elsewhere nothing is allowed.
    """
    if not sys.platform.startswith("linux"):
        return [NO_LANDLOCK]
    version = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return [NO_LANDLOCK]
    rights = ALL_RIGHTS.get(version, (1 << 16) - 1)
    tcp, signals_and_sockets = 3 if version >= 4 else 0, 3 if version >= 6 else 0
    attributes = struct.pack("<QQQ", rights, tcp, signals_and_sockets)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return [NO_LANDLOCK]
    for path in readable:
        for part, listed_only in _beneath(os.path.realpath(path), os.path.realpath(hidden)):
            _allow(ruleset, part, rights & (LIST if listed_only else READ | LIST))
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"):
        _allow(ruleset, path, rights & WRITE_DEVICE)
    _allow(ruleset, writable, rights & ~EXECUTE)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    failed = _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return [NO_LANDLOCK] if failed else []


def _beneath(path: str, hidden: str):
    """(path, False); where `hidden` lies below it, (path, True) for folders on the way, (entry, False) for others."""
    if path == hidden:
        return
    if not hidden.startswith(path.rstrip("/") + "/"):
        yield path, False
        return
    yield path, True
    try:
        entries = os.listdir(path)
    except OSError:
        return
    for name in entries:
        yield from _beneath(os.path.join(path, name), hidden)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        rights &= FILE_RIGHTS
    rule = struct.pack("<Qi", rights, descriptor)
    _libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
    os.close(descriptor)


def close_calls() -> list[str]:
    """seccomp: the calls above fail with "operation not permitted". The rights of root are given up."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        return [NO_SECCOMP]
    column, architecture = MACHINES[platform.machine()]
    header = struct.pack("<II", 0x20080522, 0)
    _libc.syscall((126, 91)[column], header, bytes(24))
    program = _filter(column, architecture, os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    pointer = struct.pack("@HP", len(program), ctypes.addressof(code))
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return [NO_SECCOMP] if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pointer, 0, 0) else []


def _filter(column: int, architecture: int, pid: int) -> list[tuple[int, int, int, int]]:
    """The program for the kernel: (operation, lines to skip if true, if false, operand).

    It reads the call's number at 0, the architecture at 4 and the low half of argument i at 16 + 8 i.
    """
    load, answer = 0x20, 0x06
    equal, at_least, any_bit = 0x15, 0x35, 0x45
    allow, refuse, missing = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, refuse), (load, 0, 0, 0)]
    if column == 0:
        program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse)]  # the x32 calls of x86_64
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            program += [(equal, 0, 1, numbers[column]), (answer, 0, 0, refuse)]
    # clone3's flags are in memory, where no filter can look: the C library then uses clone
    program += [(equal, 0, 1, CLONE3[column]), (answer, 0, 0, missing)]
    program += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (any_bit, 1, 0, CLONE_THREAD)]
    program += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    program += [(equal, 0, 3 + len(SIGNAL_COMMANDS), FCNTL[column]), (load, 0, 0, 24)]
    program += [(equal, len(SIGNAL_COMMANDS) - i, 0, command) for i, command in enumerate(SIGNAL_COMMANDS)]
    program += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    for calls, values in ((ONLY_ITSELF, (pid,)), (ONLY_ITSELF_OR_ZERO, (0, pid))):
        for numbers in calls.values():
            program += [(equal, 0, 3 + len(values), numbers[column]), (load, 0, 0, 16)]
            program += [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
            program += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    return [*program, (answer, 0, 0, allow)]


FORBIDDEN = (
    "subprocess.Popen",
    "pty.spawn",
    "socket.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "os.kill",
    "os.chmod",
    "os.chown",
    "os.chflags",
    "os.lockf",
    "os.setxattr",
    "os.removexattr",
    "os.utime",
    "ctypes.dlopen",
    "ctypes.string_at",
    "ctypes.wstring_at",
    "ctypes.cdata",
    "syslog.",
    "resource.",
    "sys.setprofile",
    "sys.monitoring",
    "sys.unraisablehook",
    "signal.pthread_kill",
)
# the events with paths, and how many of the first arguments are paths
READS = {"os.listdir": 1, "os.scandir": 1, "os.listxattr": 1, "os.getxattr": 1, "glob.glob": 1}
WRITES = {"os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.truncate": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2}


def watch(readable: list[str], writable: str, hidden: str, package: str) -> "Watch":
    """Refuse by an audit hook what the layers above refuse, and the import of `package`."""
    guard = Watch()
    devices = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
    folders = tuple(os.path.realpath(path).rstrip("/") + "/" for path in (*readable, writable))
    hidden, writable = os.path.realpath(hidden) + "/", os.path.realpath(writable).rstrip("/") + "/"
    realpath, fspath, fsdecode = os.path.realpath, os.fspath, os.fsdecode
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    inside = package + "."

    def check(path, write):
        if path is None:
            path = "."
        if isinstance(path, int):
            return
        path = realpath(fsdecode(fspath(path)))
        below = path + "/"
        if path in devices or below.startswith(writable):
            return
        if write or below.startswith(hidden) or not below.startswith(folders):
            raise PermissionError(EPERM, "not allowed in a graded submission", path)

    def hook(event, arguments):
        if guard.off:
            return
        if event == "open":
            path, mode, flags = arguments
            by_mode = mode is not None and mode not in ("r", "rb", "rt")
            check(path, bool(flags & writing) if isinstance(flags, int) else by_mode)
        elif event == "import":
            if arguments[0] == package or arguments[0].startswith(inside):
                raise ModuleNotFoundError(f"No module named {arguments[0]!r}", name=arguments[0])
        elif event in READS:
            check(arguments[0], False)
        elif event in WRITES:
            for path in arguments[: WRITES[event]]:
                check(path, True)
        elif event.startswith(FORBIDDEN):
            raise PermissionError(EPERM, f"not allowed in a graded submission ({event})")

    sys.addaudithook(hook)
    return guard


class Watch:
    """The switch of the audit hook: off while the runner does what it refuses."""

    __slots__ = ("off",)

    def __init__(self):
        self.off = False
