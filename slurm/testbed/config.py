"""The configuration of a test cluster's daemons: slurm.conf, gres.conf, hosts."""

from collections.abc import Iterable
from pathlib import Path

from slurm.testbed.layout import CLUSTER, CONTROLLER, SHARED, STANDARD, Node, Partition, Testbed, me


def slurm_conf(testbed: Testbed) -> str:
    """The text of slurm.conf. `testbed.settings` override the rest."""
    folder, user = testbed.folder, me()
    values = {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{CONTROLLER}(127.0.0.1)",
        "SlurmctldPort": testbed.controller_port,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        # A requeued job cannot start before its old credentials expire: 120 s by default.
        "AuthInfo": f"socket={testbed.munge_socket},cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "nodes" / "%n" / "spool",
        "SlurmctldLogFile": folder / "logs" / "slurmctld.log",
        "SlurmdLogFile": folder / "logs" / "%n.log",
        "SlurmctldPidFile": folder / "state" / "slurmctld.pid",
        "SlurmdPidFile": folder / "nodes" / "%n" / "slurmd.pid",
        # Nodes may claim CPUs, memory and GPUs that the machine lacks; no cgroups or systemd needed.
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "GresTypes": "gpu",
        "DefMemPerCPU": 512,
        "EnforcePartLimits": "ALL",
        "MpiDefault": "none",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        # Without this, a job that set --signal would not get that signal when it is preempted.
        "SlurmctldParameters": "preempt_send_user_signal",
        # A node that comes back is used again, whatever the reason it was down.
        "ReturnToService": 2,
        "SlurmdTimeout": 10,
        "SlurmctldTimeout": 10,
        "KillWait": 3,
        "SchedulerParameters": "sched_interval=1,sched_min_interval=1000,bf_interval=1",
        "AccountingStorageType": "accounting_storage/none",
    }
    if testbed.accounting:
        values |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": testbed.database_port,
            "AccountingStoragePass": testbed.munge_socket,  # a private munge socket must be given here as well
            "AccountingStorageTRES": "gres/gpu",
            "AccountingStorageEnforce": "associations,limits,qos",
            "JobAcctGatherType": "jobacct_gather/linux",
        }
    values |= testbed.settings
    lines = [f"{key}={value}" for key, value in values.items()]
    lines += [_node_line(node) for node in testbed.nodes]
    lines += [_partition_line(partition, testbed.nodes) for partition in testbed.partitions]
    return "\n".join(lines) + "\n"


def _node_line(node: Node) -> str:
    gres = f" Gres=gpu:{node.gpus}" if node.gpus else ""
    return (
        f"NodeName={node.name} NodeAddr=127.0.0.1 Port={node.port} CPUs={node.cpus} RealMemory={node.memory_mb}"
        f" Feature={node.feature}{gres} State=UNKNOWN"
    )


def _partition_line(partition: Partition, nodes: Iterable[Node]) -> str:
    home = partition.name if partition.nodes else SHARED
    node_names = ",".join(node.name for node in nodes if node.feature == home)
    mode = f"REQUEUE GraceTime={partition.grace_s}" if partition.preemptible else "OFF"
    return (
        f"PartitionName={partition.name} Nodes={node_names} MaxTime={partition.max_time} State=UP"
        f" Default={'YES' if partition.name == STANDARD[0].name else 'NO'}"
        f" PriorityTier={partition.priority} PreemptMode={mode}"
    )


def gres_conf(testbed: Testbed) -> str:
    """The text of gres.conf. GPU files must be character devices, so they link to /dev/null."""
    lines = ["AutoDetect=off"]
    for node in testbed.nodes:
        for index in range(node.gpus):
            # nvidia_gpu_env: Slurm sets CUDA_VISIBLE_DEVICES, as for real GPUs.
            lines.append(f"NodeName={node.name} Name=gpu File={gpu_file(testbed, index)} Flags=nvidia_gpu_env")
    return "\n".join(lines) + "\n"


def gpu_file(testbed: Testbed, index: int) -> Path:
    """The fake device with that index, which Slurm reads from the end of the name."""
    return testbed.folder / "gpus" / f"nvidia{index}"


def write(testbed: Testbed) -> None:
    """Create the folders, configuration, hosts files and fake GPUs of a cluster in its folder."""
    for part in ("etc", "logs", "state", "gpus", "run"):
        (testbed.folder / part).mkdir(exist_ok=True)
    testbed.conf.write_text(slurm_conf(testbed))
    testbed.conf.with_name("gres.conf").write_text(gres_conf(testbed))
    for index in range(max(node.gpus for node in testbed.nodes)):
        link = gpu_file(testbed, index)
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    # Every host has its own address, so that forward and reverse lookups agree, as on real machines.
    names = [f"127.0.{1 + i // 250}.{1 + i % 250} {host}" for i, host in enumerate(testbed.hosts)]
    text = "\n".join(["127.0.0.1 localhost", *names, Path("/etc/hosts").read_text()])
    for host in testbed.hosts:
        file = testbed.hosts_file(host)
        (file.parent / "spool").mkdir(parents=True, exist_ok=True)
        file.write_text(text)
