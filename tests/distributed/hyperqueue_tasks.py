"""A sweep as an array of HyperQueue tasks on two workers, of which the first is lost midway.

The PyPI package has server and workers in one process, each worker on a thread with a connection of
its own. Cutting that connection is what the server sees of a worker whose machine dies; the program
that the worker was running is killed with it.
"""

import glob
import os
import signal
import socket
import sys
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

servesim, place, shards = sys.argv[1], sys.argv[2], int(sys.argv[3])


def sockets():
    """Descriptors of this process's sockets by inode."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found[target] = int(fd)
    return found


def lines():
    return sum(Path(p).read_bytes().count(b"\n") for p in glob.glob(f"{place}/shards/*/journal"))


def running():
    """Process ids of this program's sweeps by shard."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")")[-1].split()[1])
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and b"--out" in words:
                found[words[words.index(b"--out") + 1].decode()] = int(entry)
    return found


with LocalCluster(server_dir=f"{place}/hq") as cluster:
    before = sockets()
    cluster.start_worker(WorkerConfig(cores=1))
    time.sleep(1)
    first = [fd for inode, fd in sockets().items() if inode not in before]
    client = cluster.client()
    job = Job(max_fails=shards)
    for i in range(shards):
        job.program(
            [servesim, "sweep", "sweep.toml", "--shard", f"auto/{shards}", "--jobs", "1",
             "--out", f"shards/{i}"],
            cwd=place,
            stdout=f"{place}/task-{i}.out",
            stderr=f"{place}/task-{i}.err",
        )
    submitted = client.submit(job)
    # Until here the first worker is alone, so what runs is its.
    while lines() < 20:
        time.sleep(0.01)
    own = running()
    cluster.start_worker(WorkerConfig(cores=1))
    while lines() < 60:
        time.sleep(0.01)
    lost = ", ".join(own) or "none"
    print(f"two workers, {lines()} lines of journals: worker 1 is lost, and what it ran ({lost})", flush=True)
    for fd in first:
        try:
            socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    for pid in own.values():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    ok = client.wait_for_jobs([submitted], raise_on_error=False)
    if not ok:
        for task, failed in client.get_failed_tasks(submitted).items():
            print(f"task {task} failed: {failed.error}")
            print(Path(f"{place}/task-{task}.err").read_text())
    print(f"all tasks ended {'well' if ok else 'badly'}, {lines()} lines of journals", flush=True)
    os._exit(0 if ok else 1)
