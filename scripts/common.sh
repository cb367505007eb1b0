# Sourced by other scripts: the folder of the repository, a Python, and uv.
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never  # the registry of packages is all that may be reachable

fail() {  # what, got, expected, do this
    printf '%s\n  got: %s\n  expected: %s\n  do this: %s\n' "$@" >&2
    exit 1
}

# Print the real path of the interpreter $1 (not a pyenv shim, not a virtual environment) if it is recent enough.
recent() {
    "$1" -c 'import sys; sys.version_info < (3, 12) and sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)' 2>/dev/null
}

find_python() {
    for candidate in "python$(cat .python-version)" python3.12 python3.13 python3.14 python3 python \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[2-9]*/bin/python; do
        recent "$candidate" && return
    done
    uv python find '>=3.12' 2>/dev/null && return  # one that uv installed earlier
    fail "bayesharm needs Python 3.12 or later, and there is none on this machine." \
        "$(command -v python3 >/dev/null && python3 --version 2>&1 || echo nothing) as python3" \
        "python3.12, python3.13 or python3.14 on PATH, a newer python3, or one of them under pyenv" \
        "install one (for example: apt install python3.12, pyenv install 3.12, uv python install 3.12), then make again"
}

find_uv() {
    if uv --version >/dev/null 2>&1; then
        echo uv
        return
    fi
    if ! .uv/bin/uv --version >/dev/null 2>&1; then
        echo "Installing uv into .uv" >&2
        # Into a folder first: that works with an externally managed Python too, and with the pip of any Python.
        for attempt in "$python" python3 venv; do
            rm -rf .uv
            if [ "$attempt" = venv ]; then
                "$python" -m venv .uv && .uv/bin/python -m pip install --quiet uv && break
            else
                PIP_USER=0 PIP_ROOT_USER_ACTION=ignore "$attempt" -m pip install --quiet --target .uv uv && break
            fi
        done >&2 || true
        .uv/bin/uv --version >/dev/null 2>&1 || fail "uv could not be installed." \
            "no uv on PATH, and the messages above from pip and venv of $python" \
            "uv on PATH, or a Python with pip or venv and a package registry that answers" \
            "install uv, or pip (apt install python3-pip or python3-venv), check the network, and run make again"
    fi
    echo .uv/bin/uv
}

# Print the path of the interpreter of version $1, such as 3.13; fail without a message if there is none.
find_version() {
    for candidate in "python$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$1".*/bin/python; do
        "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && recent "$candidate" && return
    done
    uv python find "$1" 2>/dev/null
}

python=$(find_python)
uv=$(find_uv)

# uv does not read pip's settings: where pip has been given another registry or certificate, give them to uv as well.
settings=$("$python" -m pip config list 2>/dev/null || true)
registry=${PIP_INDEX_URL:-$(echo "$settings" | sed -n "s/^[^.]*\.index.url='\(.*\)'\$/\1/p" | head -n 1)}
if [ -n "$registry" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$registry}}"; fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi
