"""The process that stands between an agent and one FFmpeg, and outlives the agent.

Standard library only and all of it imported at the top, one file, no other module of this program: an upgrade replaces
the installation beneath a running one. `python -I -S supervisor.py FOLDER` returns as soon as the command runs (0) or
cannot (the error's number, with its words on stderr), leaving the supervisor behind, which has neither terminal nor
parent.

The folder is the protocol, version 1:

* `request`, written before, words that each end with a zero byte: the version, a unique token, the working directory,
  seconds it may take (empty: any), bytes of log to keep, the number of arguments, these, NAME=VALUE of its variables;
* `lock`: held for as long as the supervisor lives. A stored process id proves nothing, a held lock does;
* `socket`: a client is greeted with a line `{"protocol": 1, "pid": …, "command": …}`, both process ids, and may send
  lines `stop SECONDS` (TERM to the whole tree, KILL after so many seconds) and `stay`. Its end says that the supervisor
  is gone. Who asked it to stay reads the line `done` instead as soon as the folder is final and its lock free, and has
  some seconds to send `next FOLDER`: the same supervisor then works there, and greets again;
* `progress` and `stderr.log`: what the command wrote. Of a log above `log_bytes` the beginning and the end are
  kept, and a line between them says how much is missing;
* `status.json`: how the command ended, complete and durable as soon as it is there, and then nothing of its tree lives.

Lock free and no status: the supervisor was killed, and the kernel killed the command with it. Whoever finds that takes
the lock, writes the status `{"lost": true}`, which keeps one that may still be starting from going on, and ends what
may be left of the tree by `end_tree`.
"""

# The built-in parts of signal and socket, and neither json nor contextlib: what they import besides takes longer than
# all of this, and it begins anew for each step of each job.
import _signal as signal  # type: ignore[import-not-found] # typeshed knows it by its public name
import _socket
import fcntl
import os
import select
import sys
import time

PROTOCOL = 1
REQUEST, LOCK, SOCKET, PROGRESS, LOG, STATUS = (
    "request",
    "lock",
    "socket",
    "progress",
    "stderr.log",
    "status.json",
)
MARK = "MEDIACTL_STEP"
"""The variable by which every process of a tree is known, whatever session or group it moved to."""

# The kernel kills the command when this process dies (setpriv is of util-linux 2.33 or newer; doing the same here would
# take ctypes). The shell then looks whether that happened before the kernel was told: the parent is another one then.
_UNLESS_ORPHANED = 'test "$PPID" = "$1" && shift && exec "$@"'
READY = "ready"
_GRACE_S = 5.0
_READ_BYTES = 1 << 20
_END_BYTES = 256 * 1024
_BATCH_S = 0.01
_QUIET_BYTES = 64 * 1024
_STATUS_BYTES = 512
_WORDS_BYTES = 8192
_SETTLE_S = 0.01
_LOCK_TRIES = 100
_LOOK_S = 5.0
_STAY_S = 5.0


def main() -> int:
    folder = os.path.abspath(sys.argv[1])
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            number, _, words = pipe.read().decode(errors="replace").partition(" ")
        if words != READY:
            sys.stderr.write(words or "the supervisor ended at once")
        return int(number or 1)
    os.close(ready)
    try:
        supervisor = Supervisor(folder)
        supervisor.start()
    except BaseException as error:
        code = error.errno if isinstance(error, OSError) and error.errno else 1
        os.write(tell, f"{code} {type(error).__name__}: {error}".encode())
        raise
    os.write(tell, f"0 {READY}".encode())
    os.close(tell)
    # Waiting goes on after a signal: only a byte wakes it.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    following: Supervisor | None = supervisor
    while following is not None:
        following.run(woken)
        following = following.following(woken)
    return 0


class Supervisor:
    """One command in one folder. `start`, then `run` until it has ended."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        version, self._token, self._cwd, wall_s, log_bytes, count, *words = read_request(folder)
        if int(version) != PROTOCOL:
            raise ValueError(f"protocol {version} is asked for, this is {PROTOCOL}")
        self._wall_s = float(wall_s or "inf")
        self._argv = words[: int(count)]
        self._env = dict(word.split("=", 1) for word in words[int(count) :])
        self._clients: dict[int, bytes] = {}
        self._staying: set[int] = set()
        self._next = b""
        self._reaped = False
        self._kill_at = float("inf")
        self._stopped_by = ""
        self._room = max(0, int(log_bytes) - _END_BYTES)
        self._end: list[bytes] = []
        self._held = 0
        self._missing = 0
        self._taken = 0

    def start(self) -> None:
        """Take the lock, listen, start the command. Raises OSError; BlockingIOError where another one has the lock."""
        self._lock = os.open(os.path.join(self._folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._take_lock()
        if os.path.exists(os.path.join(self._folder, STATUS)):
            raise FileExistsError("whoever looked before this began took it for dead")
        # An address holds no more than 107 bytes, the path of a folder may be longer.
        os.chdir(self._folder)
        unlink(SOCKET)
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        self._listener.bind(SOCKET)
        self._listener.listen(8)
        reserve_status(STATUS)
        self._log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        progress = os.open(PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._pipe, stderr = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _READ_BYTES)
        except OSError:
            # Pipes of this user take too much already: it remains as small as pipes are.
            pass
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.chdir(self._cwd)
        guard = ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _UNLESS_ORPHANED, "sh", str(os.getpid())]
        self._begun = time.monotonic()
        self._pid = os.posix_spawnp(
            guard[0],
            [*guard, *self._argv],
            {**self._env, MARK: self._token},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, progress, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM),
        )
        self._pidfd = os.pidfd_open(self._pid)
        # Nobody reads the starter's any more; should this program fail, the log is where people look.
        for descriptor, place in ((0, nothing), (1, self._log), (2, self._log)):
            os.dup2(place, descriptor)
        for descriptor in (nothing, progress, stderr):
            os.close(descriptor)

    def _take_lock(self) -> None:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Somebody looks whether it is held.
                time.sleep(_SETTLE_S)
            else:
                return
        raise BlockingIOError("another supervisor has the folder")

    def run(self, woken: int) -> None:
        """Until the command and its tree have ended and the status is written. A signal is a byte in ``woken``."""
        # The machine goes down, or somebody ends everything.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop(_GRACE_S, "signal"))
        poll = select.poll()
        for descriptor in (self._listener.fileno(), self._pipe, self._pidfd, woken, *self._clients):
            poll.register(descriptor, select.POLLIN)
        late_at = self._begun + self._wall_s
        ended = False
        while not ended:
            now = time.monotonic()
            if now >= late_at:
                late_at = float("inf")
                self._stop(_GRACE_S, "wall_time")
            if now >= self._kill_at:
                self._kill_at = float("inf")
                self._signal(signal.SIGKILL)
            if not os.fstat(self._lock).st_nlink:
                # The folder was removed: nobody finds this any more, and nobody would ever end it.
                self._stop(0, "removed")
            wait_s = min(late_at, self._kill_at, now + _LOOK_S) - now
            for descriptor, _ in poll.poll(max(0, wait_s) * 1000 + 1):
                if descriptor == self._pidfd:
                    ended = True
                elif descriptor == self._pipe:
                    if self._taken > _QUIET_BYTES:
                        # A flood comes line by line: to wake up for each would cost as much as FFmpeg does.
                        time.sleep(_BATCH_S)
                    if not self._take_log():
                        poll.unregister(self._pipe)
                elif descriptor == self._listener.fileno():
                    self._greet(poll)
                elif descriptor == woken:
                    os.read(woken, _READ_BYTES)
                elif not self._hear(descriptor):
                    poll.unregister(descriptor)
        self._finish()

    def following(self, woken: int) -> "Supervisor | None":
        """Let go of the folder, and begin in the next one; None: nobody has one, or a signal came.

        Raises as `start`.
        """
        # Whatever happens from here on is no part of the log.
        for descriptor in (1, 2):
            os.dup2(0, descriptor)
        self._listener.close()
        for descriptor in (self._pipe, self._pidfd, self._log, self._lock):
            os.close(descriptor)
        for client in list(self._clients):
            if self._hear(client) and client not in self._staying:
                self._forget(client)
        if len(self._staying) != 1:
            return None
        [client] = self._staying
        if not self._has_next(client, woken):
            return None
        following = Supervisor(os.fsdecode(self._next))
        following._clients, following._staying = {client: b""}, {client}
        following.start()
        following._welcome(client)
        return following

    def _has_next(self, client: int, woken: int) -> bool:
        poll = select.poll()
        poll.register(client, select.POLLIN)
        poll.register(woken, select.POLLIN)
        late_at = time.monotonic() + _STAY_S
        try:
            os.write(client, b"done\n")
        except OSError:
            return False
        while not self._next and (left_s := late_at - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left_s * 1000 + 1):
                if descriptor == woken or not self._hear(client):
                    return False
        return bool(self._next)

    def _finish(self) -> None:
        # Until it is reaped the leader keeps its id, so this cannot hit a stranger; it ends what the leader left.
        self._signal(signal.SIGKILL)
        # Of a process that has ended the kernel tells root alone; but it adds that to the parent's own.
        before = own_io()
        _, status, usage = os.wait4(self._pid, 0)
        self._reaped = True
        read, written = (after - earlier for after, earlier in zip(own_io(), before, strict=True))
        end_tree(self._token)
        # No more than the pipe holds: whoever hid from that and has it open may write for ever.
        enough = self._taken + _READ_BYTES
        while self._taken < enough and self._take_log():
            pass
        self._end_log()
        write_status(
            os.path.join(self._folder, STATUS),
            f'{{"exit_code": {os.waitstatus_to_exitcode(status)}, "cpu_seconds": {usage.ru_utime + usage.ru_stime:f},'
            f' "peak_memory_bytes": {usage.ru_maxrss * 1024}, "bytes_read": {read}, "bytes_written": {written},'
            f' "wall_seconds": {time.monotonic() - self._begun:f}, "stopped_by": "{self._stopped_by}"}}',
        )
        unlink(os.path.join(self._folder, SOCKET))

    def _take_log(self) -> bool:
        """Move what the command wrote into the log; False: there is no more for now, or ever."""
        try:
            piece = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        self._taken += len(piece)
        now, later = piece[: self._room], piece[self._room :]
        self._room -= len(now)
        self._write_log(now)
        if later:
            self._end.append(later)
            self._held += len(later)
            while self._held - len(self._end[0]) >= _END_BYTES:
                gone = len(self._end.pop(0))
                self._held -= gone
                self._missing += gone
        return bool(piece)

    def _end_log(self) -> None:
        end = b"".join(self._end)
        if self._missing or len(end) > _END_BYTES:
            start = max(0, len(end) - _END_BYTES)
            # From a whole line on, where there is one.
            start = end.find(b"\n", start) + 1 or start
            missing, end = self._missing + start, end[start:]
            self._write_log(b"\n[%d bytes of the log are left out here: it outgrew its cap]\n" % missing)
        self._write_log(end)

    def _write_log(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._log, data) :]
        except OSError:
            # A full disk, or one that is gone: without its log the command may still succeed.
            return

    def _greet(self, poll: select.poll) -> None:
        try:
            client, _ = self._listener._accept()  # type: ignore[attr-defined] # not in typeshed
        except OSError:
            # It went away again.
            return
        try:
            os.set_blocking(client, False)
            self._welcome(client)
        except OSError:
            # As a killed agent does: nobody's end but its own.
            os.close(client)
            return
        self._clients[client] = b""
        poll.register(client, select.POLLIN)

    def _welcome(self, client: int) -> None:
        os.write(client, b'{"protocol": %d, "pid": %d, "command": %d}\n' % (PROTOCOL, os.getpid(), self._pid))

    def _hear(self, client: int) -> bool:
        """What a client says; False: it hung up."""
        try:
            said = os.read(client, _WORDS_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            said = b""
        if not said:
            self._forget(client)
            return False
        *lines, rest = (self._clients[client] + said).split(b"\n")
        self._clients[client] = rest[-_WORDS_BYTES:]
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"stop" and value.replace(b".", b"", 1).isdigit():
                self._stop(float(value), "stop")
            elif word == b"stay":
                self._staying.add(client)
            elif word == b"next":
                self._next = value
        return True

    def _forget(self, client: int) -> None:
        del self._clients[client]
        self._staying.discard(client)
        os.close(client)

    def _stop(self, grace_s: float, why: str) -> None:
        self._stopped_by = self._stopped_by or why
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        if grace_s > 0:
            self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._reaped:
            # Its number may be a stranger's by now.
            return
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            # It has ended, with all of its group.
            pass


def read_request(folder: str) -> list[str]:
    """The words of a request. Raises OSError."""
    with open(os.path.join(folder, REQUEST), "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]


def unlink(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def reserve_status(path: str) -> None:
    """Take the room that a status needs: when it is written, the disk may be full, which is worth being told."""
    with open(path + ".new", "wb") as file:
        file.write(b" " * _STATUS_BYTES)


def write_status(path: str, status: str) -> None:
    """At once, whole and durable, into the room that was reserved, or anew where there is none."""
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(descriptor, status.encode().ljust(_STATUS_BYTES))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(folder)
    os.close(folder)


def own_io() -> tuple[int, int]:
    """Bytes that this process and the children it waited for read and wrote; (0, 0) where the kernel does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            figures = dict(line.split(": ") for line in file.read().splitlines())
    except OSError:
        return 0, 0
    return int(figures["rchar"]), int(figures["wchar"])


def end_tree(token: str) -> None:
    """Kill every process that bears the mark, and return when none of them lives."""
    while pids := _marked(f"{MARK}={token}".encode()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_SETTLE_S)


def _marked(mark: bytes) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                # Of a process that has ended but was not reaped it is empty.
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    # Without the interpreter's own end, which would take longer than all the rest.
    code = main()
    sys.stderr.flush()
    os._exit(code)
