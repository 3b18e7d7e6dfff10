"""Checks of each node: pure functions from what the nodes answered to findings."""

from collections import Counter
from collections.abc import Mapping

from cluster.findings import CLUSTER, GIB, MIB, By, Facts, Finding, State, listed, size

PACKAGES = ("ray", "torch", "deepspeed", "transformers", "wandb", "pydantic")

SKEW_S = 2.0
_OPEN_FILES, _FEW_OPEN_FILES = 8192, 1024
_SPARE_THREADS, _NO_THREADS = 1000, 100
_SHM = 512 * MIB
_DISK = 5 * GIB
_DISK_FULL = 0.95  # from here on Ray neither spills nor makes objects
_GPU_BUSY = 0.5
_SAME = "install the same versions everywhere: pip install -c constraints.txt -e . (or one image for all nodes)"


def answering(nodes: list[str], faults: Mapping[str, str]) -> list[Finding]:
    """Whether each node answered at all; `faults` says why one did not."""
    todo = (
        "look at the node: does its raylet run (`ray status` on the head), is it out of memory, what is at the end of "
        "logs/raylet.err in Ray's session folder there? Then restart Ray on it, or remove it from the cluster"
    )
    return [
        Finding("answers", node, "fail", "no answer", todo, faults[node])
        if node in faults
        else Finding("answers", node, "ok", "yes")
        for node in nodes
    ]


def versions(facts: By, driver: Facts) -> list[Finding]:
    """Python and packages: the driver's, or where it has none, the same as on most nodes."""
    findings = []
    for name in ("python", *PACKAGES):
        there = {node: _version(answer, name) for node, answer in facts.items()}
        have = Counter(_release(version) for version in there.values() if version)
        wanted = _release(_version(driver, name)) or (have.most_common(1)[0][0] if have else "")
        whose = "the driver has" if _version(driver, name) else "most nodes have"
        for node, version in there.items():
            if not version:
                findings.append(Finding(name, node, "fail", "missing", _SAME))
            elif _release(version) != wanted:
                findings.append(Finding(name, node, "fail", version, _SAME, f"{version}, but {whose} {wanted}"))
            else:
                findings.append(Finding(name, node, "ok", version))
    return findings


def _version(facts: Facts, name: str) -> str:
    return str(facts["python"] if name == "python" else facts["packages"].get(name, ""))


def _release(version: str) -> str:
    return version.partition("+")[0]  # torch 2.13.0+cpu on the head is 2.13.0 with CUDA on the others


def building(facts: By) -> list[Finding]:
    """Whether DeepSpeed can build its op, or has."""
    findings = []
    for node, answer in facts.items():
        lacking = [name for name in ("compiler", "ninja") if not answer[name]]
        if not lacking:
            findings.append(Finding("op build", node, "ok", "c++, ninja"))
        elif answer["ops"]:
            detail = f"no {' and no '.join(lacking)} on PATH, but built: {listed(answer['ops'])}"
            findings.append(Finding("op build", node, "ok", "built already", detail=detail))
        else:
            todo = "install a C++ compiler (apt-get install g++) and ninja (pip install ninja) where Ray's PATH has it"
            findings.append(Finding("op build", node, "fail", f"no {', no '.join(lacking)}", todo))
    return findings


def gpus(facts: By, seen_by_ray: Mapping[str, float]) -> list[Finding]:
    """Whether Ray, torch and the driver see the same GPUs, and whether their memory is free."""
    findings = []
    for node, answer in facts.items():
        by_ray, found = int(seen_by_ray.get(node, 0)), answer["gpus"]
        if not by_ray and not found["smi"] and not found["smi_error"] and not found["torch"]:
            findings += [Finding(check, node, "none", "none") for check in ("GPUs", "GPU driver", "GPU memory")]
        else:
            findings += [_gpu_count(node, by_ray, found), _gpu_driver(node, found), _gpu_memory(node, found)]
    return findings


def _gpu_count(node: str, by_ray: int, found: Facts) -> Finding:
    by_torch, by_smi = found["torch"], len(found["smi"])
    if found.get("torch_error"):
        todo = "reinstall torch on that node; its error says what is missing"
        return Finding("GPUs", node, "fail", "torch fails", todo, found["torch_error"])
    counts = f"Ray {by_ray}, torch {by_torch}" + (f", nvidia-smi {by_smi}" if found["smi"] else "")
    if by_torch == by_ray and by_smi in {0, by_ray}:
        return Finding("GPUs", node, "ok", f"{by_ray}")
    if by_torch < by_ray:
        todo = (
            "torch on that node is a CPU build; install one for CUDA"
            if found["cuda"] is None
            else f"torch is built for CUDA {found['cuda']}: see that the driver is new enough, and CUDA_VISIBLE_DEVICES"
        )
        return Finding("GPUs", node, "fail", counts, todo)
    if by_torch == by_ray:  # the others are hidden on purpose
        return Finding("GPUs", node, "ok", counts)
    todo = "Ray was told of fewer: start it there with --num-gpus, or ask for GPUs in the container's resources"
    return Finding("GPUs", node, "warn", counts, todo)


def _gpu_driver(node: str, found: Facts) -> Finding:
    if found["smi_error"]:
        todo = "the NVIDIA driver is not in order on that node: run nvidia-smi there, reboot it or reinstall the driver"
        return Finding("GPU driver", node, "fail", "nvidia-smi fails", todo, found["smi_error"])
    drivers = sorted({gpu["driver"] for gpu in found["smi"]})
    cuda = f"torch for CUDA {found['cuda']}" if found["cuda"] else "torch without CUDA"
    return Finding("GPU driver", node, "ok", f"{', '.join(drivers)}; {cuda}" if drivers else f"no nvidia-smi; {cuda}")


def _gpu_memory(node: str, found: Facts) -> Finding:
    known = [gpu for gpu in found["smi"] if gpu["total_mb"] and gpu["free_mb"] is not None]
    if not known:
        return Finding("GPU memory", node, "none", "not known")
    free = f"{min(gpu['free_mb'] for gpu in known) / 1024:.0f} of {known[0]['total_mb'] / 1024:.0f} GiB free"
    busy = [gpu["name"] for gpu in known if gpu["free_mb"] < _GPU_BUSY * gpu["total_mb"]]
    if not busy:
        return Finding("GPU memory", node, "ok", free)
    todo = "another program has it: see nvidia-smi there, and end what a dead run has left"
    return Finding("GPU memory", node, "warn", free, todo, f"on {len(busy)} of {len(known)} GPUs")


def room(facts: By, object_store: Mapping[str, float]) -> list[Finding]:
    """Shared memory for Ray's object store and loaders, disk for its sessions, open files, threads."""
    findings = []
    for node, answer in facts.items():
        findings += [
            _shm(node, answer, object_store.get(node, 0.0)),
            _disk(node, answer),
            _open_files(node, answer["open_files"]),
            _threads(node, answer["threads"], answer["threads_limit"]),
        ]
    return findings


def _shm(node: str, answer: Facts, store: float) -> Finding:
    total = answer["shm_total"]
    todo = f"give the container more: --shm-size={max(1, round(store * 1.2 / GIB))}g, in Kubernetes an emptyDir "
    todo += "with medium: Memory at /dev/shm"
    if total < _SHM:
        return Finding("shared memory", node, "fail", size(total), todo, "loaders and NCCL fail without a clear word")
    if total < store:
        detail = f"Ray's object store wants {size(store)} and uses the far slower disk instead"
        return Finding("shared memory", node, "warn", size(total), todo, detail)
    return Finding("shared memory", node, "ok", size(total))


def _disk(node: str, answer: Facts) -> Finding:
    free, total = answer["disk_free"], answer["disk_total"]
    found, todo = f"{size(free)} free", f"free some of the disk that holds {answer['temporary']}, or start Ray there "
    todo += "with --temp-dir on a larger one"
    state: State = "ok"
    if 1 - free / total > _DISK_FULL:
        state = "fail"
    elif free < _DISK:
        state = "warn"
    detail = f"of {size(total)}; over {_DISK_FULL:.0%} in use Ray keeps no objects" if state != "ok" else ""
    return Finding("temp disk", node, state, found, "" if state == "ok" else todo, detail)


def _open_files(node: str, limit: int) -> Finding:
    if limit < 0 or limit >= _OPEN_FILES:  # negative: no limit
        return Finding("open files", node, "ok", "no limit" if limit < 0 else str(limit))
    state: State = "fail" if limit < _FEW_OPEN_FILES else "warn"
    todo = f"start Ray there after `ulimit -n 65536` (docker run --ulimit nofile=65536); Ray asks for {_OPEN_FILES}"
    return Finding("open files", node, state, f"ulimit -n {limit}", todo)


def _threads(node: str, used: int, limit: int | None) -> Finding:
    if limit is None or limit - used >= _SPARE_THREADS:
        return Finding("threads", node, "ok", f"{used}" if limit is None else f"{used} of {limit}")
    state: State = "fail" if limit - used < _NO_THREADS else "warn"
    todo = "raise the limit: ulimit -u, docker run --pids-limit, or the kubelet's podPidsLimit"
    return Finding("threads", node, state, f"{used} of {limit}", todo, "a Ray worker has dozens of threads")


def clocks(skews: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Each node's clock against the driver's: seconds ahead, and how far that may be off."""
    findings = []
    for node, (ahead, off) in skews.items():
        found = f"{1000 * ahead:+.0f} ms" if abs(ahead) < 10 else f"{ahead:+.0f} s"
        if abs(ahead) - off > SKEW_S:
            todo = "synchronise the clocks (chrony or systemd-timesyncd): tokens, logs and times of files go by them"
            findings.append(Finding("clock", node, "fail", found, todo, f"more than {SKEW_S:g} s from the driver's"))
        else:
            findings.append(Finding("clock", node, "ok", found))
    return findings


def wandb(answers: By) -> list[Finding]:
    """Whether W&B can be reached from each node and a key is there. Without either, runs go on offline."""
    findings = []
    for node, answer in answers.items():
        if "mode" not in answer:  # the question itself failed
            todo = "see whether that node still answers"
            findings.append(Finding("W&B", node, "warn", "not known", todo, answer["error"]))
            continue
        if answer["mode"] in {"offline", "disabled"}:
            found = f"skipped: {answer['mode']}"
            findings += [Finding("W&B", node, "none", found), Finding("W&B key", node, "none", "not needed")]
            continue
        if answer["error"]:
            todo = "let the node reach it, set WANDB_BASE_URL to your own server, or WANDB_MODE=offline and sync later"
            detail = f"{answer['host']}: {answer['error']}"
            findings.append(Finding("W&B", node, "warn", "not reached", todo, detail))
        else:
            findings.append(Finding("W&B", node, "ok", "reached"))
        todo = "" if answer["key"] else "set WANDB_API_KEY for the run, or run `wandb login` there; else it is offline"
        key = "yes" if answer["key"] else "no"
        findings.append(Finding("W&B key", node, "ok" if answer["key"] else "warn", key, todo))
    return findings


def autoscaler(nodes: int, answer: Facts) -> list[Finding]:
    """What an autoscaler may add: those nodes are not there to be checked. `answer` is the head's."""
    if not answer["kind"]:
        return []
    groups = [f"up to {group['max']} x {group['name']}{_resources(group['resources'])}" for group in answer["groups"]]
    if groups:
        may = f"may add {listed(groups)}"
    elif answer["kind"] == "kuberay":
        may = f"its groups: kubectl get raycluster {answer.get('name') or ''} -o yaml"
    else:
        may = "its groups could not be read"
    todo = "to check them too, ask for nodes (a job that needs them) and run the doctor while they are up"
    found = "only the head is up and was checked" if nodes == 1 else f"the {nodes} nodes that are up were checked"
    return [Finding("autoscaler", CLUSTER, "none", f"{found}; {may}", todo)]


def _resources(resources: Mapping[str, float]) -> str:
    told = [f"{amount:g} {name}" for name, amount in resources.items() if name in {"CPU", "GPU"}]
    return f" ({', '.join(told)})" if told else ""
