#!/bin/sh
# Starts the server that the arguments name on the users of redis.acl.example, with the password of ATT_REDIS_PASSWORD
# and, while one is changed for another, that of ATT_REDIS_OLD_PASSWORD too. They are kept as hashes. What is in memory
# is written to /data as it changes: sessions outlive a restart.
set -eu
hash() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
passwords="#$(hash "$ATT_REDIS_PASSWORD")${ATT_REDIS_OLD_PASSWORD:+ #$(hash "$ATT_REDIS_OLD_PASSWORD")}"
acl=$(mktemp)
sed "/^user /s/ >[^ ]*/ $passwords/" "$(dirname "$0")/redis.acl.example" >"$acl"
chmod 444 "$acl"
exec "$@" --aclfile "$acl" --dir "${ATT_REDIS_DIR:-/data}" --appendonly yes --appendfsync everysec --save '' \
    --maxmemory-policy noeviction
