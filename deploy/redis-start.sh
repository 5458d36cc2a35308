#!/bin/sh
# Start the server in the arguments with the users of redis.acl.example, the password ATT_REDIS_PASSWORD and, while the
# password is changed, also ATT_REDIS_OLD_PASSWORD. They are stored as hashes. Changes are written to /data: sessions
# survive a restart.
set -eu
hash() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
passwords="#$(hash "$ATT_REDIS_PASSWORD")${ATT_REDIS_OLD_PASSWORD:+ #$(hash "$ATT_REDIS_OLD_PASSWORD")}"
acl=$(mktemp)
sed "/^user /s/ >[^ ]*/ $passwords/" "$(dirname "$0")/redis.acl.example" >"$acl"
chmod 444 "$acl"
exec "$@" --aclfile "$acl" --dir "${ATT_REDIS_DIR:-/data}" --appendonly yes --appendfsync everysec --save '' \
    --maxmemory-policy noeviction
