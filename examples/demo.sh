#!/usr/bin/env bash
# The main job end to end: tiny models, a search over their merge, the best merge exported and scored by itself.
# Run it as `make demo`. A second call finds what is there and goes on from it.
set -euo pipefail
bin=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
cd "$here/.."
export MERGEOPT_STORAGE="sqlite:///demo/mergeopt.db"
mkdir -p demo

echo "==> 1/4 Training a base and three experts of it (once, about a minute)"
"$bin/python" examples/tiny/make.py

echo "==> 2/4 Searching the merge: examples/demo.yaml"
"$bin/mergeopt" run examples/demo.yaml --folder demo

echo "==> 3/4 Exporting the winner"
if [ -d demo/model ]; then
    echo "demo/model is there already"
else
    "$bin/mergeopt" export demo demo/model
fi

echo "==> 4/4 Done"
cat <<TEXT

  model      demo/model           an ordinary Hugging Face folder, with its recipe and card
  report     demo/report.html     open it in a browser
  database   demo/mergeopt.db     jobs, trials and every example's outcome

Look further:
  $1/mergeopt report demo --storage $MERGEOPT_STORAGE
  $1/mergeopt dashboard --storage $MERGEOPT_STORAGE
  $1/mergeopt evaluate demo/model --job examples/demo.yaml
  $1/mergeopt export demo demo/trial-12 --trial 12 --storage $MERGEOPT_STORAGE
TEXT
