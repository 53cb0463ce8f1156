"""Types and reasons of conditions, and reasons of decisions: the words of a status that others act on. One place, one
spelling; the reference has each with its meaning."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


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
        "The shards that the annotation moe-operator.io/drain-shards names, or that must leave a node that goes "
        "away, hold nothing and are sent nothing. Absent while there are none.",
    )
    REBALANCE_PAUSED = (
        "RebalancePaused",
        "What spec.rebalance asks for does not happen: the message says why. Absent with mode Off.",
    )
    DATA_PLANE_BEHIND = (
        "DataPlaneBehind",
        "The data plane is of an older release that does not know all that the spec asks for: the message names it. "
        "Absent else.",
    )
    RECORDING = (
        "Recording",
        "Attention replicas write files of live traffic as spec.rebalance.record asks; False: one does not, and serves "
        "on. Absent where nobody asked for it.",
    )
    ADAPTIVE_ROUTING = (
        "AdaptiveRouting",
        "Experts of low gate weight are left out as spec.routing asks: the message has what that costs; False: a "
        "replica computes all of them, and the message says why. Absent with mode Exact.",
    )
    FP8_WIRE = (
        "FP8Wire",
        "Rows and sums travel as FP8 between attention and shards as spec.experts.wire asks; False: a replica cannot, "
        "and the message says why. Absent with wire Model.",
    )
    AUTOSCALING_ACTIVE = (
        "AutoscalingActive",
        "The operator chooses the number of shards as spec.experts.autoscaling says; False: the message says why it "
        "does not. Absent without it.",
    )
    AUTOSCALER_CONFLICT = (
        "AutoscalerConflict",
        "Somebody else writes the number of shards, and spec.experts.autoscaling has stepped back: the message names "
        "who, and the cure. Absent without spec.experts.autoscaling.",
    )
    EVICTIONS_ALLOWED = (
        "EvictionsAllowed",
        "With runtime.kubeRay, and a directory that has not told for 5 min which shards hold what: whether pods may be "
        "evicted all the same, as by kubectl drain. Absent else.",
    )
    SLEEPS = (
        "SleepsWhenIdle",
        "What spec.sleep asks for happens; False: the message says why it cannot. Absent without spec.sleep.",
    )


class Reason(_Told):
    """Reasons of conditions and Events."""

    # All is well, or asked for.
    AVAILABLE = "Available", "Requests are answered and every expert has its copies."
    ASLEEP = "Asleep", "spec.experts.shards is 0: nothing runs. Scale up to wake it."
    SUSPENDED = "Suspended", "spec.suspend is true: the operator writes nothing, serving goes on."
    FELL_ASLEEP = "FellAsleep", "Nobody asked anything for spec.sleep.afterIdle: spec.experts.shards was set to 0."
    NOT_HELD = "NotHeld", "No activator is installed: while it sleeps requests fail, and somebody has to scale it up."
    TOO_MANY_KEYS = (
        "TooManyKeys",
        "The Secret of the API keys has more than the activator can be told of: nobody could wake it, so it is not put "
        "to sleep.",
    )
    ROUTE_OF_SERVE = (
        "RouteOfServe",
        "With runtime.rayCluster requests go to Ray Serve, where nobody would hold the first one: spec.sleep is for "
        "runtime.kubeRay.",
    )
    AS_EXPECTED = "AsExpected", "Nothing is wrong."
    SCHEDULE_INVALID = (
        "ScheduleInvalid",
        "A schedule of spec.experts.autoscaling cannot be read, never comes, or leaves the policy's bounds: nothing is "
        "scaled.",
    )
    FOREIGN_SCALER = (
        "ForeignScaler",
        "A HorizontalPodAutoscaler, KEDA, kubectl scale or somebody else wrote spec.experts.shards, so "
        "spec.experts.autoscaling does nothing. The message has the cure.",
    )
    FIGURES_MISSING = (
        "FiguresMissing",
        "It is not known how busy shards are: they are of an older release, or not there yet. Bounds hold anyway.",
    )
    PAUSED = "Paused", "The annotation moe-operator.io/pause-rebalance is set: nothing is proposed or taken back."
    REACHABLE = "Reachable", "Ray answers."
    RECORDING = "Recording", "Live traffic is written to files, from which others may guess what its text was."
    ADAPTIVE = "Adaptive", "Experts are left out: answers are no longer exactly the model's, and say so."
    FP8 = "FP8", "Numbers have eight bits: answers are no longer exactly the model's, and say so."
    MODEL_READ = "ModelRead", "The model was inspected where Ray runs."

    # On the way.
    DEPLOYING_CORE = "DeployingCore", "The core application (api, attention, directory) is starting."
    INSPECTING_MODEL = "InspectingModel", "The directory is reading the model's configuration and tensor headers."
    DEPLOYING_SHARDS = "DeployingShards", "Applications of expert shards are starting."
    LOADING_EXPERTS = "LoadingExperts", "Shards are reading their experts."
    STARTING_ATTENTION = "StartingAttention", "No attention replica is ready yet."
    SCALING = "Scaling", "Shards are being added or removed; requests are answered meanwhile."
    RESTARTING = (
        "Restarting",
        "spec.experts.resources has changed: shards start anew, each once all others hold their experts.",
    )
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

    DOWNLOAD_FAILED = "DownloadFailed", "The checkpoint could not be fetched, or is not what was told; tried again."
    ACCESS_DENIED = "AccessDenied", "What keeps the model does not give it to the nodes: name, access or token."

    # What only the model can tell about the spec.
    TOO_MANY_SHARDS = "TooManyShards", "There are more shards than experts per MoE layer: use fewer shards."
    INSUFFICIENT_SLOTS = "InsufficientSlots", "No number of shards can hold the copies: see slotsPerShard, copies.min."

    INSUFFICIENT_MEMORY = (
        "InsufficientMemory",
        "The memory of a shard cannot hold its slots, or that of all shards the model. The message has the sum.",
    )
    INSUFFICIENT_RESOURCES = (
        "InsufficientResources",
        "No node of the Ray cluster has what spec.experts.resources or spec.attention.resources asks for, or all "
        "together have too little; what runs goes on.",
    )

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

    # KubeRay.
    KUBERAY_MISSING = (
        "KubeRayMissing",
        "The kind RayService is not installed, or nobody works it: the message has the command. It is looked for by "
        "itself.",
    )
    KUBERAY_REFUSED = "KubeRayRefused", "KubeRay does not take the RayService; the message has its words."
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "A node cannot pull spec.runtime.kubeRay.image, or spec.model.source.image; the message says which, and why.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "No node takes a pod: the message has the scheduler's words. Add nodes, make room, or ask for less.",
    )
    QUOTA_EXCEEDED = "QuotaExceeded", "A ResourceQuota of the namespace lets no further pod be made."
    VOLUME_MISSING = (
        "VolumeMissing",
        "A PersistentVolumeClaim of spec.runtime.kubeRay.volumes or spec.model.source.pvc is not there or not bound.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "A container took more memory than its limit and was ended; told for a minute after that. Raise the limit.",
    )
    CONTAINER_REFUSED = (
        "ContainerRefused",
        "A container cannot be made, as for want of a Secret; the message says what it lacks.",
    )
    CONTAINER_ENDED = (
        "ContainerEnded",
        "A container ended by itself, once or again and again; told for a minute after that. Its log says why.",
    )
    POD_WAITING = (
        "PodWaiting",
        "A pod is not made, does not come up, or does not stay: the message says which, and why.",
    )
    UPGRADING = (
        "Upgrading",
        "A second Ray cluster is being started, to which requests go once it serves; shards and placements stay as "
        "they are until then.",
    )

    EVICTIONS_OPENED = (
        "EvictionsOpened",
        "A drain waits for the directory no more: pods may be evicted one at a time, but the last ones that answer.",
    )
    LAST_COPIES_KEPT = (
        "LastCopiesKept",
        "Without the directory a further shard may be the last that holds some expert: none may be evicted. Bring the "
        "directory back, or do without answers.",
    )

    UPGRADE_HELD = (
        "UpgradeHeld",
        "A change of image, resources or other fields of pods waits, as spec.runtime.kubeRay.upgrade.strategy is None.",
    )

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
    OLDER_RELEASE = "OlderRelease", "What runs is of an older release: install this one on Ray's nodes, and restart it."
    NOT_RECORDED = (
        "NotRecorded",
        "An attention replica cannot write to spec.rebalance.record.path, or was not told yet; the message says why.",
    )
    NOT_ADAPTIVE = (
        "NotAdaptive",
        "The calibration of spec.routing cannot be read, is of another model, or does not allow what is asked: all "
        "experts are computed. The message has figures and cure.",
    )
    NOT_FP8 = (
        "NotFP8",
        "The device of a process, or its release, has no e4m3: numbers are as the model has them. The message has the "
        "cure.",
    )
    CONFIGURATION_REFUSED = (
        "ConfigurationRefused",
        "A process did not take its configuration, or a limit of it, and goes on with the one before; the message says "
        "why. Where it cannot read it, run one release everywhere.",
    )
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
    TOKENS_SLOWER = (
        "TokensSlower",
        "A token takes clearly longer, in steps of as many rows: it is rolled back.",
    )
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


class AutoscaleReason(_Told):
    """Reasons of decisions in ``status.autoscaling``."""

    UTILIZATION_ABOVE_TARGET = (
        "UtilizationAboveTarget",
        "The busiest shard answered for more than targetUtilization of its time.",
    )
    ITL_ABOVE_TARGET = "ItlAboveTarget", "Tokens came later than itlMs, and shards have a part in that."
    ITL_NOT_BY_SHARDS = (
        "ItlNotByShards",
        "Tokens come later than itlMs, and no number of shards would change that: see to attention, or raise itlMs.",
    )
    BELOW_TARGET = "BelowTarget", "Fewer shards stay clearly below all targets."
    BELOW_MINIMUM = "BelowMinimum", "There were fewer shards than minShards, or than a schedule's."
    ABOVE_MAXIMUM = "AboveMaximum", "There were more shards than maxShards, or than a schedule's."
    PLAN_REFUSED = (
        "PlanRefused",
        "Another number was wanted, and with the placement planned for it the model would not fit, or a shard would be "
        "too busy: it stays as it is.",
    )
    WRITE_REFUSED = "WriteRefused", "The API server did not take the number; the message has its words."


RESTING = frozenset({Reason.ASLEEP, Reason.SUSPENDED})
"""With one of these Ready is True although nothing is served, as was asked for."""
