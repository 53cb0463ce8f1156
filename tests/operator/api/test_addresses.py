"""Which spellings of an address the API server takes: those that the operator can read."""

import json

import pytest
from applied import manifest, refusal

from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment
from moe_operator.errors import InvalidObjectError

pytestmark = pytest.mark.e2e


# Spellings of an address of which the rules and the types must think the same: what the one takes the other can read.
URLS = [
    # the URL, whether it is taken
    ("http://10.0.0.1:8265", True),
    ("HTTPS://Ray.Example.ORG:443/ray/", True),
    ("http://ray_1.svc", True),
    ("http://[fd00::1]:8265", True),
    ("http://[FD00::1]:65535", True),
    ("http://ray/a%20b/~c", True),
    ("http://ray:00080", True),
    ("http://ray-1a.0x.svc:1", True),
    ("http://[::ffff:127.0.0.1]:1", False),
    ("http://[::ffff:7f00:1]:1", False),
    ("http://[0:0:0:0:0:ffff:7f00::]:1", False),
    ("http://[::7f00:1]:1", False),
    ("http://[0::7F00:0001]:1", False),
    ("http://[0:0:0:0:0:0:7f00:1]:1", False),
    ("http://[0:0:0:0:0:0:7f00::]:1", False),
    ("http://[::1]:1", True),
    ("http://[0:0:0:0:0:0:0:1]:1", True),
    ("http://[7f00:1::]:1", True),
    ("http://[::7f00:0:1]:1", True),
    ("http://[fe80::1%25eth0]:1", False),
    ("http://[1.2.3.4]:1", False),
    ("http://[fd00::zz]:1", False),
    ("http://2130706433", False),
    ("http://017700000001:1", False),
    ("http://0x7f000001:1", False),
    ("http://0177.0.0.1:1", False),
    ("http://0x7f.1:1", False),
    ("http://127.0.0.1.:1", False),
    ("http://1.2.3.4.5:1", False),
    ("http://256.0.0.1:1", False),
    ("http://127.0.0.1 :1", False),
    ("http://ray.svc.:1", False),
    ("http://ray..svc:1", False),
    ("http://ray:", False),
    ("http://-ray:1", False),
    ("http://r%61y:1", False),
    ("http://ray:65536", False),
    ("http://ray:1/%zz", False),
    ("http://ray:1/a b", False),
    ("http://ray:1/é", False),
    ("http://ray:1\\@other:2/", False),
    ("http://httpſ", False),
    ("httpſ://ray", False),
    ("http://ｒａｙ:1", False),
    ("http://ray\n:1", False),
    ("http://ray:1\n", False),
]


@pytest.mark.parametrize(("url", "taken"), URLS, ids=lambda value: ascii(value))
def test_what_the_rules_take_the_operator_can_read(installed: Kubectl, namespace: str, url: str, taken: bool) -> None:
    body = manifest(runtime__rayCluster__dashboardURL=url)
    if taken:
        installed.apply(body, namespace=namespace)
    else:
        assert f"dashboardURL is {json.dumps(url, ensure_ascii=False)}" in refusal(installed, body, namespace)
    assert readable(url) == taken


def readable(url: str) -> bool:
    stored = manifest(runtime__rayCluster__dashboardURL=url)
    stored["metadata"] |= {"namespace": "default", "uid": "u"}
    try:
        MoEDeployment.parse(stored)
    except InvalidObjectError:
        return False
    return True
