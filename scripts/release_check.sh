#!/bin/sh
# Build sdist and wheel, check their metadata and contents, install each into an empty environment, and run the program
# there without network. The Makefile calls it (`make release-check`); results are in build/release.
set -eu
. "$(dirname "$0")/common.sh"
folder=$(pwd -P)/build/release
rm -rf "$folder"
mkdir -p "$folder"
export SOURCE_DATE_EPOCH=1767225600  # so that equal files give equal bytes

"$uv" build --quiet --python "$python" --sdist --out-dir "$folder/dist" .
"$uv" build --quiet --python "$python" --wheel --out-dir "$folder/dist" .
sdist=$(ls "$folder"/dist/*.tar.gz)
wheel=$(ls "$folder"/dist/*.whl)
"$uv" build --quiet --python "$python" --wheel --out-dir "$folder/of-sdist" "$sdist"
"$uv" tool run twine check --strict "$sdist" "$wheel"
"$uv" run --quiet --no-project --python "$python" --with packaging \
    python scripts/check_distribution.py "$sdist" "$wheel" "$folder"/of-sdist/*.whl
echo "sdist and wheel hold what they should" >&2

offline=""  # Linux: a namespace without network
if unshare --map-root-user --net true 2>/dev/null; then offline="unshare --map-root-user --net"; fi
[ -n "$offline" ] || echo "the network stays on: no unshare on this system" >&2

for kind in wheel sdist; do
    eval "file=\$$kind"
    "$uv" venv --quiet --python "$python" "$folder/$kind"
    "$uv" pip install --quiet --python "$folder/$kind/bin/python" "$file[plots]"
    mkdir "$folder/$kind-work"
    (
        cd "$folder/$kind-work"
        export PATH="$folder/$kind/bin:$PATH" XDG_CACHE_HOME="$folder/$kind-work/cache"
        unset PYTHONPATH JAX_COMPILATION_CACHE_DIR BAYESHARM_DATA
        bayesharm --version
        $offline bayesharm --help >/dev/null
        $offline bayesharm models >/dev/null
        $offline bayesharm simulate --edges 20 --seed 1 --out study
        $offline bayesharm fit study/scans.csv study/features.npy --preview --seed 1 --out run
        $offline bayesharm summary run >/dev/null
        $offline bayesharm harmonize run study/scans.csv study/features.npy --out harmonized.npy
        $offline bayesharm report run --out report.html
        # The wheel of the sdist has the same bytes, so one demo is enough.
        if [ "$kind" = wheel ]; then $offline bayesharm demo --edges "${EDGES:-200}" >/dev/null; fi
    )
    echo "$kind: installed and run" >&2
done
