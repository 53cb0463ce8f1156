"""One more node of a local Ray: `python -m moe_dev.ray_worker_node GCS_ADDRESS CPUS RESOURCES_JSON OBJECT_STORE_BYTES`.

`ray start --address` refuses to join a cluster on loopback. This does what it would do, and runs until it is ended.
Started by `moe_dev.raylocal`.
"""

import json
import sys
import time

from ray._private.node import Node
from ray._private.parameter import RayParams


def main(address: str, cpus: str, resources: str, object_store_bytes: str) -> None:
    parameters = RayParams(
        gcs_address=address,
        node_ip_address="127.0.0.1",
        num_cpus=int(cpus),
        resources=json.loads(resources),
        object_store_memory=int(object_store_bytes),
        # 0: the kernel's choice.
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        metrics_agent_port=0,
        include_log_monitor=False,  # type: ignore[arg-type]  # Ray tests its truth
    )
    Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=False, connect_only=False)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
