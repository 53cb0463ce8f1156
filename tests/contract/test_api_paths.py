"""The contract names all paths that an api answers, so that nobody else is given one of them."""

from typing import Any, cast

from moe_contract.report import INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH
from moe_contract.serve.merge import API_PATHS
from moe_serving.api.app import build_app


class Service:
    """Of which the application asks only this before the first request."""

    metrics = None


def test_all_that_the_api_answers_is_known() -> None:
    app = cast(Any, build_app(cast(Any, Service())))
    served = {*app.openapi()["paths"], INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH}
    assert {path for path in served if not path.startswith(API_PATHS)} == set()
    assert {known for known in API_PATHS if not any(path.startswith(known) for path in served)} == set()
