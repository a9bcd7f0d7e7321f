# Everything a newcomer types. Each target sets up what it needs: nothing but Python 3.11 or later and make is assumed.

PYTHON ?= python3
DEMO_VENV := .venv-demo
VENV := .venv
DIST_VENV := .venv-dist
WORKERS ?= 2
DATA ?= training
SHARED ?= ../shared/data
# Name, number of micrographs, and seed of the simulated worlds; the last ones calibrate scores.
WORLDS := worlds-1:420:101 worlds-2:420:102 worlds-calibration:320:103
# The same of dirty worlds, to learn junk from.
DIRTY := junk-1:1000:201
WORLDS_UNSEEN := worlds-1:420:101 worlds-2:420:102 worlds-calibration:320:909
# How the names of molecules begin that are akin to the real proteins.
AKIN := beta_galactosidase apoferritin ribosome mitoribosome
define simulate_worlds
for worlds in $(1); do \
		set -- $$(echo $$worlds | tr : ' '); \
		$(VENV)/bin/frazil-train worlds --out $(2)/simulated/$$1 --count $$2 --seed $$3 $(3) || exit 1; \
	done
endef
# Idle OpenMP threads that spin slow everything else on a shared machine.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test long haswell check lint site bench fuzz machine mutants robustness models unseen dist clean

help:
	@echo "make demo    see it work: simulated micrographs picked live, on the CPU, in a minute or two"
	@echo "make test    every test"
	@echo "make long    every test, those that have a long form in that"
	@echo "make haswell  the tests that compute, on an emulated processor without AVX-512, VNNI and bfloat16"
	@echo "make check   formatting, lint, types, import rules, and every test"
	@echo "make site    the documentation as a site, in site/"
	@echo "make bench   how fast it is, beside the floor and other pickers, into docs/reference (20 minutes)"
	@echo "make fuzz    ten thousand broken and hostile micrographs"
	@echo "make mutants faults planted one by one: which do the tests not see? (two hours)"
	@echo "make machine the service on a Debian that boots, in an emulator; needs root and Linux (quarter of an hour)"
	@echo "make models  train the models again, without the labelled micrographs if $(SHARED) has none; once stopped, it goes on"
	@echo "make unseen  how well is picked what was never trained on (two hours; needs $(SHARED))"
	@echo "make dist    wheel, source archive and component list into dist/, each checked and installed as a user would"
	@echo "make robustness  the long proofs that nothing is lost, into docs/reference/robustness"

demo: $(DEMO_VENV)/.ready
	$(DEMO_VENV)/bin/python demo/live_demo.py

# Two at a time: half of the tests wait for something. More at a time on more cores, by WORKERS=4.
test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

# The same, in the long forms of those tests that have one: more kills, more micrographs, more swaps.
long: $(VENV)/.ready
	$(VENV)/bin/python -m pytest --long

# On an emulated older processor: what computes must hold there, too. Needs Debian's qemu-user-static.
haswell: $(VENV)/.ready
	tests/haswell

check: lint test

lint: $(VENV)/.ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

site: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: $(VENV)/.ready
	$(VENV)/bin/python -m benchmarks.speed
	$(VENV)/bin/python -m benchmarks.speed --pages

fuzz: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/fuzz_inputs.py --count 10000

mutants: $(VENV)/.ready
	$(VENV)/bin/python tests/mutants.py

machine: $(VENV)/.ready
	$(VENV)/bin/python tests/machine/run.py

robustness: $(VENV)/.ready
	$(VENV)/bin/python -m pytest tests/robustness --long --report docs/reference/robustness
	$(VENV)/bin/python -m pytest tests/cluster --long
	$(VENV)/bin/python benchmarks/large_sessions.py --json docs/reference/speed/large-sessions.json --markdown docs/reference/robustness/many-files.md
	$(VENV)/bin/python benchmarks/stream_endurance.py > docs/reference/robustness/subscribers.txt
	$(VENV)/bin/python benchmarks/fuzz_stream.py > docs/reference/robustness/fuzzed-sockets.txt
	$(VENV)/bin/python benchmarks/crowds.py > docs/reference/robustness/hostile-clients.txt
	$(VENV)/bin/python benchmarks/swap_models.py --json docs/reference/robustness/swaps.json

# Without the labelled micrographs the models learn from simulated ones alone.
models: prepare = $(wildcard $(SHARED)/prepare.py)
models: $(VENV)/.ready
	$(if $(prepare),$(VENV)/bin/python $(prepare) $(DATA),@echo "No labelled micrographs: there is no $(SHARED)/prepare.py. \
		The models are trained on simulated ones alone." >&2)
	seed=1; for particle in galactosidase apoferritin proteasome channel polymerase ribosome capsid; do \
		$(VENV)/bin/frazil-train simulate --out $(DATA)/simulated/$$particle --particle $$particle \
			--count 8 --seed $$seed >/dev/null && seed=$$((seed + 1)) || exit 1; \
	done
	seed=11; for diameter in 100 140 190 260; do \
		$(VENV)/bin/frazil-train simulate --out $(DATA)/simulated/imaginary-$$diameter --particle imaginary \
			--diameter $$diameter --count 20 --seed $$seed --size 2048 >/dev/null && seed=$$((seed + 1)) || exit 1; \
	done
	$(call simulate_worlds,$(WORLDS),$(DATA),$(if $(wildcard $(SHARED)/molecules),--molecules $(SHARED)/molecules))
	$(call simulate_worlds,$(DIRTY),$(DATA),--dirty $(if $(wildcard $(SHARED)/molecules),--molecules $(SHARED)/molecules))
	for model in mlp:mlp cnn:cnn fcn:fcn junk:junk; do \
		$(VENV)/bin/frazil-train train --recipe $${model#*:} --data $(DATA) --out exported_models/$${model%:*} \
			--run-folder $(DATA)/runs/$${model%:*} --resume --int8 $(if $(prepare),,--skip-missing) || exit 1; \
	done

# What the default model picks of a protein that it never saw: trained without each of the four, two at a time, and measured.
# With CLUSTER=slurm, or any other, workers do both; CLUSTER_OPTIONS="--workers 4 --config FILE" says more of them.
unseen: $(VENV)/.ready
	$(VENV)/bin/python $(SHARED)/prepare.py $(DATA)-unseen
	$(call simulate_worlds,$(WORLDS_UNSEEN),$(DATA)-unseen,--molecules $(SHARED)/molecules $(AKIN:%=--without %))
	$(if $(CLUSTER),,printf '%s\n' beta-galactosidase apoferritin ribosome-80s trpv1 | xargs -P 2 -I PROTEIN \
		$(VENV)/bin/frazil-train train --recipe fcn --data $(DATA)-unseen --only-score PROTEIN --threads 1 --resume \
			--out $(DATA)-unseen/models/without-PROTEIN --run-folder $(DATA)-unseen/runs/without-PROTEIN)
	$(VENV)/bin/python -m benchmarks.unseen --data $(DATA)-unseen --models $(DATA)-unseen/models --pages$(if \
		$(CLUSTER), --train --cluster $(CLUSTER) $(CLUSTER_OPTIONS))
	$(VENV)/bin/python -m benchmarks.few_shot --data $(DATA)-unseen --models $(DATA)-unseen/models --pages

# With CONTAINER=BASE also an image, from a base image that is there; with PYTHONS="..." also other Pythons; with EMULATED=1 also ARM.
dist: $(DIST_VENV)/.ready
	$(DIST_VENV)/bin/python packaging/dist.py $(if $(CONTAINER),--container $(CONTAINER)) $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(EMULATED),--emulated)

clean:
	rm -rf $(DEMO_VENV) $(VENV) $(DIST_VENV) .venv-topaz demo-output site dist

$(DEMO_VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "frazil needs Python 3.11 or later; give it with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[simulate]'
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "frazil needs Python 3.11 or later; give it with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,dev]'
	@touch $@

$(DIST_VENV)/.ready: packaging/tools.txt
	$(PYTHON) -m venv --clear $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet uv
	$(DIST_VENV)/bin/uv pip install --quiet --python $(DIST_VENV)/bin/python --requirement packaging/tools.txt
	@touch $@
