"""Names that others see keep the form that Kubernetes and the other side demand."""

import re
from typing import get_args

from moe_contract.model import ModelProblemReason
from moe_operator.api.deployment import MAX_NAME
from moe_operator.api.names import CLEANUP_FINALIZER, GROUP, child_labels, shard_selector
from moe_operator.api.reasons import ConditionType, Reason
from moe_operator.kube.secrets import internal_key_name

CONDITION_REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")  # metav1.Condition


def test_every_problem_of_a_model_is_a_reason() -> None:
    assert set(get_args(ModelProblemReason)) <= {reason.value for reason in Reason}


def test_reasons_and_condition_types_have_the_form_of_kubernetes_and_a_meaning() -> None:
    for word in (*Reason, *ConditionType):
        assert CONDITION_REASON.match(word)
        assert word.meaning.endswith(".")


def test_the_finalizer_is_in_our_domain() -> None:
    assert CLEANUP_FINALIZER.startswith(f"{GROUP}/")


def test_the_selector_matches_the_labels_of_shards_of_that_deployment_only() -> None:
    selected = dict(term.split("=") for term in shard_selector("tiny").split(","))
    assert selected.items() <= child_labels("tiny", "expert-shard").items()
    assert not selected.items() <= child_labels("other", "expert-shard").items()
    assert not selected.items() <= child_labels("tiny", "internal-key").items()


def test_names_of_children_fit_where_the_longest_allowed_name_does() -> None:
    assert len(internal_key_name("x" * MAX_NAME)) <= 63
