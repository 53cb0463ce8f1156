"""Every name that others see: group, kind, labels, finalizer, condition types and reasons. One place, one spelling."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

GROUP = "moe-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

KIND = "MoEDeployment"
PLURAL = "moedeployments"
SINGULAR = "moedeployment"
SHORT_NAME = "moe"
CATEGORIES = ("all", "moe-operator")

PLACEMENT_KIND = "ExpertPlacement"
PLACEMENT_PLURAL = "expertplacements"
PLACEMENT_SINGULAR = "expertplacement"
PLACEMENT_SHORT_NAME = "xp"
PLACEMENT_CATEGORIES = ("moe-operator",)
"""Not of ``all``: each MoEDeployment has several."""

FIELD_MANAGER = "moe-operator"
"""Owner of the fields that the operator applies."""

REPORTING_CONTROLLER = GROUP
"""Reporter of the operator's Events."""

CLEANUP_FINALIZER = f"{GROUP}/ray-cleanup"
"""Set while Serve applications of the object run on a Ray cluster that outlives it."""

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
"""On every child: name of its MoEDeployment."""

LABEL_COMPONENT = f"{GROUP}/component"
"""On every child: what it is for."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

LABEL_USE = f"{GROUP}/use"
"""On a Secret of the user: what its owner allows the operator to use it for, one of ``SecretUse``."""

ANNOTATION_ADDRESSES = f"{GROUP}/allowed-addresses"
"""On a Secret with a token: where its owner allows the token to be sent, ``host:port`` or URLs, separated by commas."""

ANNOTATION_PAUSE = f"{GROUP}/pause-rebalance"
"""On a MoEDeployment: the operator proposes and moves nothing of its own accord, until it is gone or ``false``."""

COMPONENT_SHARD = "expert-shard"
COMPONENT_INTERNAL_KEY = "internal-key"
COMPONENT_PLACEMENT = "placement"

ANNOTATION_APPLIED = f"{GROUP}/applied"
"""On every child: digest of what was applied last. Equal, and nothing drifted: no write is needed."""

ANNOTATION_DRAIN = f"{GROUP}/drain-shards"
"""On a MoEDeployment: indices of the shards that shall hold nothing any more, separated by commas, such as ``1,3``."""


class SecretUse(StrEnum):
    """Values of ``LABEL_USE``."""

    RAY_TOKEN = "ray-token"
    API_KEYS = "api-keys"


class _Told(StrEnum):
    """Words of the status that the reference explains: each has its meaning, and where it fits the cure, beside it."""

    _value_: str
    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """``value`` is what others read."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def named(cls, value: str) -> Self:
        """The member of this value; KeyError if there is none."""
        return {str(member): member for member in cls}[value]


class ConditionType(_Told):
    """Types of the conditions in a MoEDeployment's status."""

    READY = (
        "Ready",
        "Requests are answered and every expert has a live copy; or, with reason Asleep or Suspended, nothing runs, as "
        "was asked for. Stays True while scaling.",
    )
    PROGRESSING = "Progressing", "Something is being started, moved or removed on the way to the spec."
    DEGRADED = "Degraded", "Something that should run does not, though requests may still be answered."
    MODEL_VALID = "ModelValid", "The model was found and can be served. Unknown until Ray's side has looked at it."
    RUNTIME_REACHABLE = "RuntimeReachable", "Ray answers at spec.runtime and lets the operator in."
    RECONCILING = "Reconciling", "For kstatus: in progress, be it towards the spec or back from a loss."
    STALLED = (
        "Stalled",
        "For kstatus: failed; it waits for somebody to mend what the message names, or has been in trouble for 10 min.",
    )
    DRAINED = (
        "Drained",
        "The shards that the annotation moe-operator.io/drain-shards names, or that Ray moves off a node that is being "
        "drained, hold nothing and are sent nothing. Absent while there are none.",
    )
    REBALANCE_PAUSED = (
        "RebalancePaused",
        "What spec.rebalance asks for does not happen: the message says why. Absent with mode Off.",
    )


class Reason(_Told):
    """Reasons of conditions and Events."""

    # All is well, or asked for.
    AVAILABLE = "Available", "Requests are answered and every expert has its copies."
    ASLEEP = "Asleep", "spec.experts.shards is 0: the applications are removed. Scale up to wake it."
    SUSPENDED = "Suspended", "spec.suspend is true: the operator writes nothing, serving goes on."
    AS_EXPECTED = "AsExpected", "Nothing is wrong."
    PAUSED = "Paused", "The annotation moe-operator.io/pause-rebalance is set: nothing is proposed or taken back."
    REACHABLE = "Reachable", "Ray answers."
    MODEL_READ = "ModelRead", "The model was inspected where Ray runs."

    # On the way.
    DEPLOYING_CORE = "DeployingCore", "The core application (api, attention, directory) is starting."
    INSPECTING_MODEL = "InspectingModel", "The directory is reading the model's configuration and tensor headers."
    DEPLOYING_SHARDS = "DeployingShards", "Applications of expert shards are starting."
    LOADING_EXPERTS = "LoadingExperts", "Shards are reading their experts."
    STARTING_ATTENTION = "StartingAttention", "No attention replica is ready yet."
    SCALING = "Scaling", "Shards are being added or removed; requests are answered meanwhile."
    SETTLED = "Settled", "The world is as the spec wants it."
    DRAINING = "Draining", "What the shards to be drained hold is copied to others; requests are answered meanwhile."
    DRAINED = "Drained", "The shards to be drained hold nothing: their processes may be stopped."
    DELETING = "Deleting", "The applications on the Ray cluster are being removed."

    # The model (moe_contract.model.ModelProblemReason, one to one).
    PATH_NOT_FOUND = "PathNotFound", "spec.model.source.path does not exist on the nodes of the Ray cluster."
    CONFIG_MISSING = "ConfigMissing", "The directory has no config.json."
    CONFIG_INVALID = "ConfigInvalid", "config.json cannot be read or contradicts itself."
    NOT_MIXTURE_OF_EXPERTS = "NotMixtureOfExperts", "The model has no experts."
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture", "The family is not among those the message lists."
    WEIGHTS_MISSING = "WeightsMissing", "A safetensors file or a tensor is missing."
    WEIGHTS_TRUNCATED = "WeightsTruncated", "A safetensors file is shorter than its header says: copy it again."
    TOKENIZER_MISSING = "TokenizerMissing", "The directory has no tokenizer."

    # What only the model can tell about the spec.
    TOO_MANY_SHARDS = "TooManyShards", "There are more shards than experts per MoE layer: use fewer shards."
    INSUFFICIENT_SLOTS = "InsufficientSlots", "No number of shards can hold the copies: see slotsPerShard, copies.min."

    DRAIN_REFUSED = "DrainRefused", "The other shards cannot hold the model: nothing is moved. The message has the sum."
    NO_SUCH_SHARD = "NoSuchShard", "moe-operator.io/drain-shards names what is no shard; those that are are drained."

    PLACEMENT_TOO_LARGE = (
        "PlacementTooLarge",
        "layers x shards x slotsPerShard is more than this release places, or placing took too long: use fewer.",
    )

    # Ray.
    RAY_UNREACHABLE = "RayUnreachable", "Nothing answers at spec.runtime.rayCluster; tried again with growing delay."
    RAY_ADDRESS_REFUSED = "RayAddressRefused", "The operator's settings forbid connecting to this address."
    RAY_ANSWER_REFUSED = (
        "RayAnswerRefused",
        "What Ray or the directory answers is larger, or takes longer to read, than the operator's bounds; asked again "
        "with a delay that grows to 5 minutes.",
    )
    RAY_AUTH_FAILED = "RayAuthFailed", "Ray wants another token: see tokenSecretRef."
    NOT_A_RAY_DASHBOARD = "NotARayDashboard", "What answers at dashboardURL is not a Ray dashboard."
    PACKAGE_MISSING = "PackageMissing", "The Ray cluster lacks moe-operator[serving]: install it on its nodes."
    ROUTE_PREFIX_TAKEN = (
        "RoutePrefixTaken",
        "Another application has routePrefix, or a path of the API below it, or the reverse: choose another.",
    )
    ROUTE_PREFIX_RESERVED = (
        "RoutePrefixReserved",
        "routePrefix begins with the name of another namespace, which owns it: use one segment, or the own namespace.",
    )
    FOREIGN_WRITER = "ForeignWriter", "Somebody else's Serve configuration removed or changed applications; put back."
    DEPLOY_FAILED = "DeployFailed", "Serve could not start an application; the message has its words."
    DIRECTORY_UNREACHABLE = "DirectoryUnreachable", "The directory cannot be asked for its state; serving goes on."
    PLACEMENT_REFUSED = "PlacementRefused", "The directory did not take the placement; the message says why."

    # Kubernetes, and the operator itself.
    INTERNAL_ERROR = "InternalError", "The operator could not work the object, by a fault of its own: see its log."
    KUBERNETES_REFUSED = (
        "KubernetesRefused",
        "The API server refused what the operator needs for this object: a right, a quota or an admission policy.",
    )
    SPEC_INVALID = "SpecInvalid", "The object does not fit the operator's types: install the CRD of this release."
    WINDOW_INVALID = "WindowInvalid", "A window of spec.rebalance cannot be read or never comes; nothing is proposed."
    SECRET_MISSING = "SecretMissing", "A Secret that the spec names, or a key in it, does not exist."
    SECRET_NOT_LABELLED = "SecretNotLabelled", "The Secret lacks the label moe-operator.io/use for this use."
    SECRET_NOT_BOUND = (
        "SecretNotBound",
        "The annotation moe-operator.io/allowed-addresses of the token's Secret does not name dashboardURL's address: "
        "nothing is sent there.",
    )
    SECRET_INVALID = "SecretInvalid", "What is in the Secret is no token, or no API key of at least 32 characters."
    NAME_CONFLICT = "NameConflict", "An object with the name of a child belongs to somebody else."

    # Losses.
    SHARDS_LOST = "ShardsLost", "Shards do not answer or lack experts again; requests for experts without a copy wait."
    ATTENTION_LOST = "AttentionLost", "No attention replica is ready any more."
    SHARD_PROBLEM = "ShardProblem", "A shard holds less than it should; the message says why."
    UNHEALTHY = "Unhealthy", "Serve calls an application unhealthy and restarts it; the message has its words."
    CLEANUP_ABANDONED = "CleanupAbandoned", "Deletion went on although Serve applications could not be removed."


class PlacementConditionType(_Told):
    """Types of the conditions in an ExpertPlacement's status."""

    VALID = (
        "Valid",
        "The content fits its MoEDeployment as it is now. Unknown while that cannot be judged, or it waits.",
    )
    APPROVED = "Approved", "spec.decision says so, or it was in force when the object was made."
    MIGRATED = "Migrated", "Every copy is where the content has it, and what it replaced is freed."
    VERIFIED = (
        "Verified",
        "What was counted of it bears comparison with what was counted before. Unknown until that is known; False "
        "where it is worse, and so rolled back, or kept since a person wanted it.",
    )
    ACTIVE = "Active", "Requests are routed by this placement, and no later one is on its way."


class PlacementReason(_Told):
    """Reasons of an ExpertPlacement's conditions and Events."""

    FITS = "Fits", "The content can be migrated to."
    DEPLOYMENT_MISSING = "DeploymentMissing", "There is no MoEDeployment of the name in spec.deploymentRef."
    NOT_JUDGED = "NotJudged", "The MoEDeployment runs nothing now that the content could be judged against."
    TOO_MANY_WAIT = "TooManyWait", "More wait than are looked at; it is judged once others are decided on or deleted."
    BASE_NOT_REACHED = "BaseNotReached", "baseRevision is not in force yet; the object waits for it."
    STALE_BASE = "StaleBase", "Another revision than baseRevision is in force: write it anew from that one."
    OTHER_MODEL = "OtherModel", "The content is of another model: see modelDigest, experts and the number of layers."
    OTHER_SHAPE = "OtherShape", "shards or slotsPerShard are not those of the MoEDeployment."
    INVALID_ENTRY = "InvalidEntry", "A layer has an entry that is no expert, or not as many as there are slots."
    EXPERT_MISSING = "ExpertMissing", "An expert is in no slot of a layer."
    SHARD_DRAINED = "ShardDrained", "It places experts on a shard that is being drained."
    TOO_FEW_COPIES = "TooFewCopies", "An expert is on fewer shards than spec.experts.copies.min asks for."
    REVISION_TAKEN = "RevisionTaken", "What runs under this revision is another placement."
    PROPOSED = "Proposed", "The operator proposes it: its price and what is foretold of it are in its status."
    PENDING = "Pending", "Nobody has decided yet: set spec.decision to Approved or Rejected."
    APPROVED = "Approved", "It was approved."
    REJECTED = "Rejected", "spec.decision is Rejected."
    NOT_STARTED = "NotStarted", "Nothing has been moved for it."
    MIGRATING = "Migrating", "Copies are on their way; requests are answered meanwhile."
    IN_FORCE = "InForce", "It is what the data plane runs."
    SUPERSEDED = "Superseded", "A later placement took its place."
    OBSERVING = "Observing", "What requests meet is counted, and then compared with what they met before."
    VERIFIED = "Verified", "What was counted bears comparison with what was counted before it."
    NOT_VERIFIED = "NotVerified", "It stays, though nothing comparable was counted before or since."
    GAIN_MISSING = "GainMissing", "What was counted is worse than what was counted before it: it is rolled back."
    KEPT_THOUGH_WORSE = (
        "KeptThoughWorse",
        "What was counted is worse than before, and it stays: a person wanted it, or there is no way back.",
    )
    ROLLED_BACK = "RolledBack", "It did not do what it promised and was taken back: condition Verified has the figures."
    FAILED = "Failed", "It cannot be migrated to; condition Valid says why."
    NOTHING_RUNS = "NothingRuns", "It was in force last, and nothing runs now: it comes back where it fits then."


class RebalanceResult(StrEnum):
    """How a look at the traffic ended."""

    ACCEPTED = "Accepted"
    REJECTED = "Rejected"
    FAILED = "Failed"


class RebalanceReason(_Told):
    """Reasons of ``status.rebalance.lastDecision``, and of why the traffic is not looked at now."""

    # Why it is looked at, or not now.
    DUE = "Due", "The interval is over, and nothing else stands against it."
    OFF = "Off", "spec.rebalance.mode is Off."
    SUSPENDED = "Suspended", "spec.suspend is true."
    PAUSED = "Paused", "The annotation moe-operator.io/pause-rebalance is set."
    WINDOW_INVALID = "WindowInvalid", "A window of spec.rebalance cannot be read or never comes."
    UNDER_WAY = "UnderWay", "A placement is on its way, or is being verified."
    INTERVAL = "Interval", "It was looked at less than spec.rebalance.interval ago."
    COOLING_DOWN = "CoolingDown", "A placement came into force less than spec.rebalance.cooldown ago."
    BACKING_OFF = "BackingOff", "Proposals were taken back: the cooldown is longer."
    OUTSIDE_WINDOWS = "OutsideWindows", "No window of spec.rebalance is open."

    # What a look at the traffic found.
    GAIN_PAYS = "GainPays", "A placement was found whose gain pays for its moves: it is proposed."
    REPAIR = (
        "Repair",
        "Copies that spec.experts asks for are missing where they should be: the placement that mends it is proposed.",
    )
    NOTHING_BETTER = "NothingBetter", "No better placement was found than what runs."
    GAIN_TOO_SMALL = "GainTooSmall", "On traffic that it was not made from, the plan gains less than minGainPercent."
    GAIN_BELOW_PRICE = "GainBelowPrice", "What the plan saves within spec.rebalance.horizon does not pay for its moves."
    GAIN_IS_NOISE = "GainIsNoise", "The gain does not stand out of what the traffic differs by from moment to moment."

    # Why none could be looked for.
    NO_TRAFFIC = "NoTraffic", "No request was answered since the last look."
    TOO_LITTLE_TRAFFIC = (
        "TooLittleTraffic",
        "Too little is known yet of the traffic to plan from one part of it and to judge on another.",
    )
    ONE_SHARD = "OneShard", "There are fewer than two shards: experts can go nowhere."
    SHARDS_CHANGE = "ShardsChange", "Shards are coming, going or not heard of; the next look is after that."
    OTHER_MODEL = "OtherModel", "The traffic was that of another model than is served now."
    STATISTICS_DAMAGED = "StatisticsDamaged", "The directory's statistics cannot be read: run one release everywhere."
    NOT_PLANNABLE = (
        "NotPlannable",
        "The planner does not take what runs or what the spec asks for; the message says why.",
    )
    STATISTICS_MISSING = "StatisticsMissing", "The directory does not tell its statistics; the message says why."
    PLANNING_TOO_HEAVY = (
        "PlanningTooHeavy",
        "Planning took more time or memory than it may: it is left alone for a while, then tried again.",
    )
    PLANNING_DELAYED = "PlanningDelayed", "Others kept the planner busy, or it ended: the next look is as usual."


RESTING = frozenset({Reason.ASLEEP, Reason.SUSPENDED})
"""With one of these Ready is True although nothing is served, as was asked for."""


def child_labels(deployment: str, component: str) -> dict[str, str]:
    """Labels of a child of the MoEDeployment named ``deployment``."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: component, LABEL_MANAGED_BY: FIELD_MANAGER}


def placement_name(deployment: str, revision: int) -> str:
    """Name of the ExpertPlacement of a revision of a MoEDeployment."""
    return f"{deployment}-r{revision}"


def revision_of(name: str) -> int:
    """The revision in the name of an ExpertPlacement as the API server takes it; 0, which none has, of another."""
    number = name.rpartition("-r")[2]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= 10 else 0


def shard_selector(deployment: str) -> str:
    """``status.selector``: an autoscaler on the scale subresource demands one.

    It matches the pods of expert shards; on an existing Ray cluster there are none, so that only External and Object
    metrics can drive the scale there.
    """
    return f"{LABEL_DEPLOYMENT}={deployment},{LABEL_COMPONENT}={COMPONENT_SHARD}"
