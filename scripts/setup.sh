#!/bin/sh
# Make .venv with the exact versions of requirements.lock (`install`), make .venv-comparators with those of comparators.lock
# (`comparators`), or compile both files anew (`lock`).
# Needs a Python >= 3.12 and the package registry; brings its own uv if there is none. The Makefile calls it.
set -eu
. "$(dirname "$0")/common.sh"

case ${1:-} in
install)
    if [ "$(cat .venv/.ready 2>/dev/null)" != "$(pwd -P)" ] || ! recent .venv/bin/python >/dev/null; then
        echo "Making .venv with $python" >&2
        rm -rf .venv
        "$uv" venv --quiet --python "$python" .venv
    fi
    "$uv" pip sync --python .venv/bin/python requirements.lock
    "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
    pwd -P >.venv/.ready
    ;;
comparators)
    # One of them needs numpy 1, which has wheels for no later Python.
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || python=$("$uv" python find 3.12 2>/dev/null) ||
        fail "The comparators need Python 3.12." "$("$python" --version 2>&1)" "python3.12 on PATH or under pyenv" \
            "install it (for example: apt install python3.12, pyenv install 3.12), then make comparators again"
    if ! .venv-comparators/bin/python --version >/dev/null 2>&1; then
        echo "Making .venv-comparators with $python" >&2
        rm -rf .venv-comparators
        "$uv" venv --quiet --python "$python" .venv-comparators
    fi
    "$uv" pip sync --python .venv-comparators/bin/python comparators.lock
    ;;
lock)
    shift
    "$uv" pip compile --quiet --python "$python" --universal --all-extras --custom-compile-command "make lock" \
        --output-file requirements.lock "$@" pyproject.toml
    "$uv" pip compile --quiet --python-version 3.12 --universal --group comparators --custom-compile-command "make lock" \
        --output-file comparators.lock "$@"
    ;;
*)
    fail "setup.sh does not know what to do." "'${1:-}'" "install, comparators or lock" "run make, which calls it"
    ;;
esac
