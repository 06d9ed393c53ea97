# Thin front door; the logic is in CMake (CMakePresets.json) and tools/.
.DEFAULT_GOAL := build
.PHONY: build

build:
	@tools/install-deps.sh build
	@tools/build.sh release
