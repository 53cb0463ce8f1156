# The commands of this repository; `make help` lists them. What they need is set up by the way and only once.

PYTHON ?= python3
RUN := .venv/bin/python
# What the demo runs on; the tests also see to it that children go with their owners.
CLUSTER := kubectl etcd kube-apiserver
# What nodes run on, beside a control plane: see hack/node/README.md.
NODE := kube-controller-manager kube-scheduler kubelet kube-proxy containerd containerd-shim-runc-v2 ctr runc \
	loopback ptp host-local portmap coredns ray-operator kuberay-manifests
SETUP = sh hack/check-tools.sh "$(PYTHON)" $(1) && PYTHONPATH=hack "$(PYTHON)" -m moe_dev.setup --binaries $(1)

# A recipe's exported variables reach the programs: DEMO_EXIT, DEMO_PARTS, KUBECONFIG and KUBEBUILDER_ASSETS need no mention here.
.DEFAULT_GOAL := help
ROUNDS ?= 5
export ROUNDS
NODES ?= 2
export NODES
IMAGES ?= operator
.PHONY: help environment setup demo demo-stop cluster cluster-down e2e e2e-sample check fast check-pythons test test-long exactness chaos endurance lint crds manifests images images-check release model bench gpu-check lock clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

environment: ## make .venv (its packages are cached outside the clone)
	@$(call SETUP,)

setup: ## make .venv and build the embedded control plane (cached outside the clone)
	@$(call SETUP,$(CLUSTER) kube-controller-manager kuberay-manifests gateway-api-manifests keda-manifests monitoring-manifests helm)

demo: ## kubectl apply to streamed tokens, a placement that follows the traffic, a killed shard; DEMO_PARTS=3 DEMO_EXIT=1 KUBECONFIG=
	@$(call SETUP,$(if $(KUBECONFIG),kubectl,$(CLUSTER)))
	@$(RUN) -m moe_dev.demo

demo-stop: ## end the demo of this clone, and nothing else
	@PYTHONPATH=hack "$(PYTHON)" -m moe_dev.demo_state

cluster: ## start NODES=2 Kubernetes nodes with KubeRay on this machine, as root; prints KUBECONFIG
	@$(call SETUP,$(CLUSTER) $(NODE))
	@$(RUN) -m moe_dev.node up $(NODES)

cluster-down: ## end them; nothing is left
	@$(RUN) -m moe_dev.node down

e2e: ## the tests on nodes with pods: on NODES=2 of our own, as root, or on the cluster that KUBECONFIG names
	@$(call SETUP,$(if $(KUBECONFIG),kubectl,$(CLUSTER) $(NODE) helm))
	@$(RUN) -m pytest -s -m whole tests/cluster

e2e-sample: setup ## the part of it that CI runs, on one node of our own; where it cannot run, one line says so and why
	@$(RUN) -m moe_dev.node.sample $(CLUSTER) $(NODE) helm

check: environment ## lint and the fast tests, without Ray, control plane and torch, for while you work
	@$(MAKE) --no-print-directory -j2 lint fast

fast: environment ## the fast tests without lint
	@$(RUN) -m moe_dev.lanes.run check

check-pythons: ## the same under each supported Python that is there, oldest and newest first; OTHERS=1 leaves out PYTHON itself
	@PYTHONPATH=hack "$(PYTHON)" -m moe_dev.pythons check $(if $(OTHERS),--others)

test: setup $(if $(TESTS),,check) ## run the tests: those of `check`, then all but the long ones in lanes side by side; TESTS= names some
	$(if $(TESTS),,@$(call SETUP,prometheus))
	@$(RUN) -m $(if $(TESTS),pytest -m "not whole" $(TESTS),moe_dev.lanes.run)

test-long: setup ## the tests that take too long for that: more deaths, releases, deployments, kernels, a quarter of an hour
	@$(call SETUP,prometheus)
	@$(RUN) -m moe_dev.lanes.run long

exactness: setup ## the whole proof of exactness, of which `make test` runs a sample: twenty minutes
	@$(RUN) -m pytest -m whole tests/serving --ignore=tests/serving/chaos

chaos: setup ## processes of each kind killed and frozen, and a node, ROUNDS=5 times each under load: half an hour; prints a table
	@$(RUN) -m pytest -s -m whole tests/serving/chaos

endurance: setup ## ten minutes beside Rays that answer far too much, of which `make test-long` runs one; a thousand deployments
	@$(RUN) -m pytest -s -m whole tests/operator

lint: environment ## ruff, mypy, import arrows, CRDs and references as generated
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(RUN) -m moe_operator.api.generate --check
	@$(RUN) -m moe_serving.api.reference --check

crds: environment ## generate crds/, docs/api.md and docs/serving-api.md from the types
	@$(RUN) -m moe_operator.api.generate
	@$(RUN) -m moe_serving.api.reference

manifests: environment ## generate operator/manifests from the Helm chart
	@$(call SETUP,helm)
	@$(RUN) -m moe_dev.manifests

images: environment ## build the operator's image as root, with buildah and mmdebstrap; IMAGES=serving the one of a Ray's pods: 3.5 GB compressed
	@$(RUN) -m moe_dev.images $(IMAGES)

images-check: IMAGES = operator serving
images-check: environment ## build both images and start each once on a root that cannot be written; serving's takes 30 GB of disk and half an hour
	@$(RUN) -m moe_dev.images --check $(IMAGES)

release: environment ## build images and chart and push them: REGISTRY=ghcr.io/somebody TAG=v0.1.0, as root and logged in
	@$(call SETUP,helm)
	@$(RUN) -m moe_dev.release "$(REGISTRY)" "$(TAG)"

model: environment ## train models/tiny anew: 30 minutes on 2 cores, same seeds
	@$(RUN) models/train_tiny.py

bench: setup ## run all benchmarks, which takes hours; each prints a table and writes JSON to build/
	@mkdir -p build; failed=; for each in benchmarks/[a-z]*.py; do \
		name=$$(basename "$$each" .py); echo "== $$name"; \
		$(RUN) -m "benchmarks.$$name" --json "build/$$name.json" || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "failed, or a figure below its aim:$$failed"; exit 1; }

gpu-check: ## measure on this machine's H100 or H200 what only a GPU can show: 8 minutes at most, installs nothing; build/gpu.json
	@mkdir -p build; python=$(RUN); test -x $(RUN) || python="$(PYTHON)"; \
		PYTHONPATH=.:placement:contract:serving "$$python" -m benchmarks.gpu --json build/gpu.json

lock: environment ## pin the dependencies anew after a change of pyproject.toml
	@PYTHONPATH=hack "$(PYTHON)" -m moe_dev.lock

clean: ## remove what the tools left in the clone; the caches outside stay
	@rm -rf .venv .venv.lock build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
