"""Runs generated code against assertions in a separate, limited Python process."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

# Runs in the child: limits come before the candidate, and no preexec_fn, so threads may call ``passes``.
_BOOTSTRAP = r"""
import json, os, resource, sys
job = json.loads(sys.stdin.buffer.read())
null = os.open(os.devnull, os.O_RDWR)
report = os.dup(1)
for stream in (0, 1, 2):
    os.dup2(null, stream)
def limit(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
limit(resource.RLIMIT_CPU, job["cpu_s"])
limit(resource.RLIMIT_AS, job["memory_bytes"])
limit(resource.RLIMIT_NPROC, 0)
limit(resource.RLIMIT_FSIZE, 0)
limit(resource.RLIMIT_CORE, 0)
limit(resource.RLIMIT_NOFILE, report + 8)
def audit(event, arguments, names=frozenset(job["refused"])):
    if event in names or event.startswith("socket."):
        raise PermissionError(event)
sys.addaudithook(audit)
def main(code, checks, token, write):
    # Compiled apart, so that code left open, as in a string, cannot swallow the checks.
    programs = [compile(code, "<code>", "exec"), compile(checks, "<checks>", "exec")]
    scope = {"__name__": "candidate"}
    for program in programs:
        exec(program, scope)
    write(report, token)
main(job["code"], job["checks"], job["token"].encode(), os.write)
os._exit(0)
"""

# Root is exempt from RLIMIT_NPROC, so starting processes is refused by name too.
_REFUSED: Sequence[str] = (
    "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg",
    "subprocess.Popen", "pty.spawn", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown",
    "os.truncate", "shutil.rmtree", "signal.pthread_kill", "ctypes.dlopen",
)  # fmt: skip


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def passes(code: str, checks: str, *, timeout_s: float = 2.0, memory_bytes: int = 256 << 20) -> bool:
    """True if ``code`` followed by ``checks`` runs to its end with every assertion true.

    The child is an isolated interpreter in an empty temporary directory with an empty environment, without
    input or visible output, and with limits on wall time in seconds, CPU time, address space in bytes, files
    and processes. Its whole process group is killed at the end. An early exit does not count as success.

    This limits accidents such as endless loops. It is no security boundary: hostile code can get around it,
    so run code from untrusted sources inside a virtual machine or a locked-down container.

    Raises ``ValueError`` if ``timeout_s`` or ``memory_bytes`` is not positive.
    """
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    if memory_bytes <= 0:
        raise ValueError(f"memory_bytes must be positive, got {memory_bytes}")
    token = secrets.token_hex(16)
    job = {
        "code": code,
        "checks": checks,
        "token": token,
        "cpu_s": int(timeout_s) + 1,
        "memory_bytes": memory_bytes,
        "refused": list(_REFUSED),
    }
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(job).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill_group(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
    return process.returncode == 0 and output == token.encode()
