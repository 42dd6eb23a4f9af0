#!/usr/bin/env python3
"""Talks to `blockjob-sim qemu` with the qemu.qmp package from PyPI: the asyncio client and the legacy one.

Usage: qmp_clients.py PROGRAM. Runs the race case: two grouped backups, one of which fails. Ends with 0 when all was as it should be,
with 77 when the package is missing.
"""

import asyncio
import os
import subprocess
import sys
import tempfile

try:
    from qemu.qmp import QMPClient, ExecuteError
    from qemu.qmp.legacy import QEMUMonitorProtocol
except ImportError:
    print("the package qemu.qmp is not installed: nothing was tested")
    sys.exit(77)

PROGRAM = os.path.abspath(sys.argv[1])
SIZE = 1 << 20
FAILING = ('{"driver": "blkdebug", "node-name": "n1", "image": "raw1", "inject-error":'
           ' [{"event": "none", "iotype": "read", "errno": 5, "sector": 512}]}')


def null(name):
    return f"driver=null-co,node-name={name},size={SIZE},latency-ns=50000"


def start(directory, *more):
    path = os.path.join(directory, "qmp.sock")
    args = [PROGRAM, "qemu", "-nodefaults", "-display", "none", "-S", "-blockdev", null("n0"), "-blockdev", null("t0"),
            "-blockdev", null("raw1"), "-blockdev", FAILING, "-blockdev", null("t1")]
    return path, subprocess.Popen([*args, *more], cwd=directory)


def actions():
    def backup(n):
        return {"type": "blockdev-backup",
                "data": {"job-id": f"j{n}", "device": f"n{n}", "target": f"t{n}", "sync": "full"}}
    return {"actions": [backup(0), backup(1)], "properties": {"completion-mode": "grouped"}}


async def modern(directory):
    path, process = start(directory, "-qmp", "unix:qmp.sock,server=on,wait=off")
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    qmp = QMPClient("test")
    await qmp.connect(path)
    ended = {}
    with qmp.listener(("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")) as listener:
        await qmp.execute("transaction", actions())
        async for event in listener:
            ended[event["data"]["device"]] = (event["event"], event["data"].get("error"))
            if len(ended) == 2:
                break
    assert ended == {"j0": ("BLOCK_JOB_CANCELLED", None), "j1": ("BLOCK_JOB_COMPLETED", "Input/output error")}, ended
    assert await qmp.execute("query-jobs") == []
    try:
        await qmp.execute("job-dismiss", {"id": "j0"})
        raise AssertionError("there is no such job")
    except ExecuteError as error:
        assert str(error) == "Job not found", error
    await qmp.execute("quit")
    try:
        await qmp.disconnect()
    except EOFError:
        pass  # It was quicker.
    assert process.wait(30) == 0


def legacy(directory):
    """As QEMU's own Python machine does it: the monitor is a client of ours."""
    path = os.path.join(directory, "legacy.sock")
    qmp = QEMUMonitorProtocol(path, server=True)
    _, process = start(directory, "-chardev", f"socket,id=mon,path={path}", "-mon", "chardev=mon,mode=control")
    qmp.accept(30.0)
    reply = qmp.cmd_obj({"execute": "transaction", "arguments": actions()})
    assert reply == {"return": {}}, reply
    ended = []
    while len(ended) < 2:
        event = qmp.pull_event(wait=30.0)
        if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
            ended.append(event["data"]["device"])
    assert sorted(ended) == ["j0", "j1"], ended
    assert qmp.cmd_obj({"execute": "nonsense"})["error"]["class"] == "CommandNotFound"
    assert qmp.cmd_obj({"execute": "quit"}) == {"return": {}}
    try:
        qmp.close()
    except EOFError:
        pass
    assert process.wait(30) == 0


with tempfile.TemporaryDirectory() as where:
    asyncio.run(asyncio.wait_for(modern(where), 120))
    legacy(where)
print("qemu.qmp: asyncio and legacy clients were served")
