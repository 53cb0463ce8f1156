"""ExpertPlacements that somebody writes for the deployment of a bench, and a data plane that migrates slowly."""

from typing import Any

from bench import Bench
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS
from placement_objects import content, manifest, moved

from moe_contract.report import DirectoryReport, Progress
from moe_placement import Placement

OTHER = moved(FACTS.layers, FACTS.experts, 2, 4)


class SlowDirectory(FakeDirectory):
    """Gets a copy further at each look after revision 1, and is there after ``looks``."""

    def __init__(self, looks: int) -> None:
        super().__init__(FACTS)
        self.looks, self.looked = looks, 0

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or report.revision < 2:
            return report
        self.looked += 1
        progress = Progress(copied=min(self.looked, 16), total=16, settled=self.looked > self.looks)
        return report.model_copy(update={"progress": progress})


def write(bench: Bench, revision: int, base: int, of: Placement = OTHER, **fields: Any) -> None:
    bench.write(manifest(content(of, revision, base, FACTS.digest) | fields))


async def migrate(bench: Bench, revision: int, base: int, of: Placement = OTHER) -> None:
    write(bench, revision, base, of)
    await bench.work()
    bench.decide(revision, "Approved")
    await bench.work(3, seconds=5.0)
