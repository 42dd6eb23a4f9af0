"""Ganeti's QmpConnection: ganeti_client.py SOCKET CONVERSATION; prints a line for each answer. It has no events. PYTHONPATH has Ganeti."""
import json
import sys

from ganeti import errors
from ganeti.hypervisor.hv_kvm.monitor import QmpConnection

with open(sys.argv[2], encoding="utf-8") as file:
    steps = json.load(file)


def ask(monitor, command, arguments):
    try:
        return {"return": monitor.Execute(command, arguments or None)}
    except errors.HypervisorError as error:
        # "kvm: error executing the … command: DESCRIPTION (CLASS):"
        return {"error": str(error)}


with QmpConnection(sys.argv[1]) as qmp:
    for command, first, *second in steps:
        if command == "until":
            answer = ask(qmp, first, {})
            while answer != {"return": second[0]}:
                answer = ask(qmp, first, {})
        else:
            answer = ask(qmp, command, first)
        print(json.dumps(answer))
