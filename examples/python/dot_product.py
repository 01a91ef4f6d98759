#!/usr/bin/env python3
"""A scheduling policy as a program: of the nodes that take a pod, the one whose free vector is least like the pod's.

It speaks the protocol of orchestra's `External` scheduler, version 1: a line of JSON with an ask in, a line with a plan
out. The cluster is told once, then only what has changed. To try a rule of your own, change `score`.
"""

import copy
import json
import sys

# What a share of cpu and of devices is measured by, in thousandths: 128 cores, 8 devices.
LARGEST_CPU, LARGEST_DEVICES = 128_000, 8_000


def tolerates(toleration, taint):
    """Whether a toleration is for a taint, as in Kubernetes."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def pick_devices(shape, node):
    """The numbers of the devices that a pod gets, those with the least left first; None if there are too few."""
    wanted, has = shape.get("devices"), node.get("devices", {"model": "", "left": []})
    if wanted is None:
        return []
    if wanted.get("models") and has["model"] not in wanted["models"]:
        return None
    enough = [at for at, left in enumerate(has["left"]) if left >= wanted["millis"]]
    enough.sort(key=lambda at: has["left"][at])
    return enough[: wanted["count"]] if len(enough) >= wanted["count"] else None


def fits(shape, node):
    """Whether a node takes a pod. Affinity and spreading are not looked at: what breaks them, the scheduler refuses."""
    requested, allocatable = node["requested"], node["allocatable"]
    hard = [taint for taint in node.get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    taken = [tuple(port[1:]) for port in node.get("host_ports", [])]
    return (
        not node.get("unschedulable")
        and shape.get("node_name") in (None, node["name"])
        and all(any(tolerates(one, taint) for one in shape.get("tolerations", [])) for taint in hard)
        and all(node.get("labels", {}).get(key) == value for key, value in shape.get("node_selector", {}).items())
        and not any(tuple(port[1:]) in taken for port in shape.get("host_ports", []))
        and all(requested.get(name, 0) + amount <= allocatable.get(name, 0) for name, amount in shape["requests"].items())
        and pick_devices(shape, node) is not None
    )


def score(shape, node):
    """How much a pod likes a node: the rule itself. More is better."""
    wanted = shape.get("devices", {"count": 0, "millis": 0})
    free_cpu = node["allocatable"].get("cpu", 0) - node["requested"].get("cpu", 0)
    free_devices = sum(node.get("devices", {"left": []})["left"])
    cpu = free_cpu / LARGEST_CPU * (shape["requests"].get("cpu", 0) / LARGEST_CPU)
    devices = free_devices / LARGEST_DEVICES * (wanted["count"] * wanted["millis"] / LARGEST_DEVICES)
    return max(0, min(100, int((1.0 - (cpu + devices) / 2.0) * 100.0)))


def take(shape, node):
    """Puts a pod on a node, and says which devices it has."""
    devices = pick_devices(shape, node)
    for name, wanted in shape["requests"].items():
        node["requested"][name] = node["requested"].get(name, 0) + wanted
    for device in devices:
        node["devices"]["left"][device] -= shape["devices"]["millis"]
    node.setdefault("host_ports", []).extend(shape.get("host_ports", []))
    return devices


def plan(ask, nodes):
    """A plan for an ask: unit by unit, pod by pod."""
    tried, steps, left = {}, [], []
    names = sorted(ask["scope"] if "scope" in ask else nodes)
    for unit in ask["units"]:
        before, ops = copy.deepcopy(tried), []
        for pod in unit["pods"]:
            shape = ask["shapes"][pod["shape"]]
            feasible = [name for name in names if fits(shape, tried.get(name) or nodes[name])]
            if feasible:
                # Of equally good nodes, the first by name.
                best = max(feasible, key=lambda name: score(shape, tried.get(name) or nodes[name]))
                node = tried.setdefault(best, copy.deepcopy(nodes[best]))
                ops.append({"place": {"pod": pod["id"], "node": best, "devices": take(shape, node)}})
        if len(ops) < max(1, unit["pods_min"]):
            tried = before
            left.append(unit["id"])
        else:
            steps.append({"unit": unit["id"], "ops": ops})
    return {"version": 1, "steps": steps, "left": left}


def main():
    nodes = {}
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["anew"]:
            nodes.clear()
        nodes.update((node["name"], node) for node in ask["nodes"])
        print(json.dumps(plan(ask, nodes)), flush=True)


if __name__ == "__main__":
    main()
