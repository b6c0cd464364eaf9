#!/usr/bin/env bash
# Make the passwords and tokens that compose.yaml reads, in the folder `secrets` beside it, unless they are there.
# usage: docker/make-secrets.sh [the name to log in at the dashboards with]
set -euo pipefail
folder=${MERGEOPT_SECRETS:-$(dirname "$0")/secrets}
name=${1:-mergeopt}
# What hashes a password: `caddy` of the proxy's image, unless another one is named.
read -ra caddy <<<"${CADDY:-docker run --rm -i caddy:2.11-alpine caddy}"

if [[ -e $folder ]]; then
    echo "$folder is there already, and a service may depend on what it holds; remove it yourself to start anew." >&2
    exit 2
fi
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# Complete or absent: the folder gets its name once everything is in it.
unfinished=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
database=$(random)
dashboard=$(random)
dashboard=${dashboard:0:24}
printf '%s' "$database" >"$unfinished/postgres_password"
printf 'postgresql://mergeopt:%s@postgres:5432/mergeopt' "$database" >"$unfinished/database_url"
printf '%s' "$(random)" >"$unfinished/ray_token"
hash=$(printf '%s\n' "$dashboard" | "${caddy[@]}" hash-password)
printf '%s %s\n' "$name" "$hash" >"$unfinished/dashboard_users"
# Containers read these files as user 1000, whoever owns them here; nobody else on this machine gets into the folder.
chmod 444 "$unfinished"/*
chmod 700 "$unfinished"
mv -T "$unfinished" "$folder"
echo "The dashboards' name is $name, and the password $dashboard. It is kept nowhere: note it now."
