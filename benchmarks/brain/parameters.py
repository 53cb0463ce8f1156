"""Every parameter of the traffic, noise, drift and shift that the figures are measured on.

All but ``RISKS``, ``SHARD_RISKS`` and ``CONTINUED_CLUSTER`` were fixed before the solver was tuned, so that no figure
is reached by choosing its data. Changing one is a change of the
figure's meaning and belongs in the commit message.
"""

from moe_placement.traces import Traffic

SEEDS = (1, 2, 3)
"""Every figure on generated data is a median over these."""

# 1, 2, 5: DeepSeek-V3's geometry and the load shapes of the literature.
LAYERS, EXPERTS, TOP_K = 58, 256, 8
NODES, GPUS_PER_NODE, SLOTS_PER_GPU = 4, 8, 9
LOAD_SHAPES = ("lognormal-0.5", "lognormal-1.0", "lognormal-1.5", "zipf-0.8")
SPEED_TRAFFIC = Traffic(
    tokens=8192, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, communities=24, affinity=1.5, zipf=0.6
)
SPEED_RUNS = 5

# 3: traffic with structure; half of the prompts give the statistics, the other half judges.
FITTED = ("qwen3-30b-a3b", "qwen3-next-80b-a3b")
FITTED_TOKENS, FITTED_LAYERS, FITTED_RANK, FITTED_PROMPT_SHARE, FITTED_PROMPT_TOKENS = 32768, 6, 24, 0.5, 64
FITTED_CLUSTERS = {"qwen3-30b-a3b": (4, 4, 9), "qwen3-next-80b-a3b": (4, 8, 18)}
"""(nodes, GPUs per node, slots per GPU): 12.5% redundant slots, as in DeepSeek's 288 for 256."""
RECORDED_CLUSTER = (4, 2, 9)
"""The same for the recorded traces of 64 experts."""
FITTED_SINGLE = {"qwen3-30b-a3b": (1, 8, 18), "qwen3-next-80b-a3b": (1, 8, 72)}
RECORDED_SINGLE = (1, 8, 9)
"""The same on one node."""
COPIES_SEEDS = (1, 2, 3, 4, 5, 6)
RISKS, SHARD_RISKS = (1.0, 1.4, 2.0, 3.0), (0.7, 1.4)
"""Figure 12 chooses among these."""

# 4: small instances that HiGHS can prove.
OPTIMA_INSTANCES, OPTIMA_SEED = 120, 7

# 5: log-loads follow an autoregressive process; sigma of the lognormal loads and steps per run.
DRIFT_RHO, DRIFT_SIGMA, DRIFT_STEPS, DRIFT_LAYERS = (0.8, 0.95), 1.0, 6, 16

# 6
MIGRATION_PLANS, MIGRATION_SEED = 10_000, 11

# 7: one set of thresholds for all three.
NOISE_WINDOWS, NOISE_LAYERS, NOISE_EXPERTS, NOISE_TOP_K, NOISE_TOKENS = 10_000, 4, 64, 4, 4096
SHIFT_FRACTION, SHIFT_WINDOWS = 0.20, 3
REPLAY_WINDOWS, REPLAY_RHO, REPLAY_SIGMA, REPLAY_TOKENS = 60, 0.97, 0.8, 4096
REPLAY_STEPS_PER_WINDOW = 3000
"""Model steps of one window (about a minute and a half of decoding at 30 ms per step)."""
REPLAY_INTERVALS = (1, 2, 3, 5, 10, 20, 60)
"""EPLB's fixed intervals in windows, of which the best counts."""

# 8: statistics from one domain, traffic of another; generated where no recorded domains are used.
SHIFT_TRAFFIC = Traffic(
    tokens=32768, layers=4, experts=64, top_k=8, communities=12, affinity=1.5, zipf=0.4, domains=4, domain_affinity=0.5
)
SHIFT_SEEDS = (1, 2, 3, 4, 5, 6)
"""Four kinds of text each: 24 pairs of one kind and the others."""
SHIFT_RISKS = (0.0, 1.4, 3.0, 6.0)
CONTINUED_CLUSTER = (3, 2, 3)
"""(nodes, GPUs per node, slots per GPU) for the 16 experts of ``models/tiny``: 12.5% redundant slots."""

# 9
SCALE_NODES, SCALE_GPUS_PER_NODE, SCALE_SLOTS_PER_GPU = 32, 8, 8

# 10: cases without structure; as many tokens are planned on as judge afterwards.
CASES, CASES_SEED, CASES_TOKENS = 500, 13, 2048

# 11: instances all of whose placements can be tried. The first seed's were looked at while prices were chosen, the
# second's while it was chosen how long to search; the third's never.
SMALL_INSTANCES, SMALL_TOKENS, SMALL_SEEDS, SMALL_UNSEEN_SEED = 200, 2048, (17, 19), 29
