#!/bin/sh
# Run the fast tests, a preview fit and the help in a fresh environment with the lowest or the newest versions that
# pyproject.toml allows: test_versions.sh lowest|newest [PYTHON], such as `newest 3.13`. Without that Python on this machine,
# only resolve the versions. The Makefile calls it (`make test-lowest`, `make test-newest`).
set -eu
. "$(dirname "$0")/common.sh"

case ${1:-} in
lowest) resolution=lowest-direct ;;
newest) resolution=highest ;;
*) fail "test_versions.sh does not know which versions." "'${1:-}'" "lowest or newest" "run make test-lowest" ;;
esac
version=${2:-3.12}
folder=build/versions/$1-$version
mkdir -p "$folder"
# Wheels only: what has none for this Python cannot be installed by most users.
"$uv" pip compile --quiet --python-version "$version" --resolution "$resolution" --only-binary :all: --no-annotate --no-header \
    --extra plots --extra tables --extra sklearn --output-file "$folder/requirements.txt" pyproject.toml >/dev/null
echo "$1, Python $version: $(wc -l <"$folder/requirements.txt") packages resolved" >&2
python=$(find_version "$version") || {
    echo "no Python $version on this machine: the versions are in $folder/requirements.txt, nothing was run" >&2
    exit 0
}
"$uv" venv --quiet --clear --python "$python" "$folder/venv"
bin=$folder/venv/bin
"$uv" pip install --quiet --python "$bin/python" --requirements "$folder/requirements.txt" pytest pytest-xdist hypothesis \
    hatchling editables
"$uv" pip install --quiet --python "$bin/python" --no-deps --no-build-isolation --editable .

shift; shift || true
"$bin/python" -m pytest --quiet --numprocesses 2 --dist loadfile -p no:cacheprovider -m "not slow" "$@"
"$bin/bayesharm" --help >/dev/null
rm -rf "$folder/study" "$folder/run"
"$bin/bayesharm" simulate --edges 20 --seed 1 --out "$folder/study"
"$bin/bayesharm" fit "$folder/study/scans.csv" "$folder/study/features.npy" --preview --seed 1 --out "$folder/run"
"$bin/bayesharm" summary "$folder/run"
"$bin/bayesharm" report "$folder/run" --out "$folder/run-report.html" && rm "$folder/run-report.html"
