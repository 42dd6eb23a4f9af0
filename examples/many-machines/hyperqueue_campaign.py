#!/usr/bin/env python3
"""A campaign by HyperQueue's Python package (`pip install hyperqueue`); the environment is that of part.sh.

hyperqueue_campaign.py               a server and workers of its own, on this machine
hyperqueue_campaign.py SERVER_DIR    a server that runs already (`hq server start`)

Each task is one part. A task that failed, as its process was killed, is submitted again; it goes on where it was.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from hyperqueue import Client, Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

HERE = pathlib.Path(__file__).resolve().parent
TRIES = 3
NAMES = ("PARTS", "CAMPAIGN", "OUT", "BLOCKJOB_SIM")


def submit(client, parts):
    """Has the parts done; gives those that were not."""
    env = {name: os.environ[name] for name in NAMES if name in os.environ}
    job = Job(name="blockjob-sim", max_fails=None, default_workdir=os.getcwd(), default_env=env)
    tasks = {}
    for part in parts:
        log = f"{os.environ['OUT']}/log-{part}"
        task = job.program([str(HERE / "part.sh"), str(part)], name=f"part {part}", stdout=log, stderr=log)
        tasks[task.task_id] = part
    submitted = client.submit(job)
    if client.wait_for_jobs([submitted], raise_on_error=False):
        return []
    return [tasks[task] for task in client.get_failed_tasks(submitted)]


def campaign(client):
    os.makedirs(os.environ["OUT"], exist_ok=True)
    parts = range(int(os.environ["PARTS"]))
    for _ in range(TRIES):
        parts = submit(client, parts)
        if not parts:
            return
        print(f"undone: {' '.join(map(str, sorted(parts)))}; they are submitted again", file=sys.stderr)


def main():
    missing = [name for name in NAMES[:3] if name not in os.environ]
    if missing:
        sys.exit(f"{sys.argv[0]}: {', '.join(missing)} must be set: part.sh says what they are")
    if len(sys.argv) > 1:
        campaign(Client(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as server:
            cluster = LocalCluster(server)
            for _ in range(os.cpu_count() or 1):
                cluster.start_worker(WorkerConfig(cores=1))
            try:
                campaign(cluster.client())
            finally:
                cluster.stop()
    sys.exit(subprocess.run([HERE / "merge.sh"], check=False).returncode)


if __name__ == "__main__":
    main()
