#!/bin/sh
# Create att's database and its owner, once. The owner is not a superuser: att needs none.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set password="$ATT_DB_PASSWORD" \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE att LOGIN PASSWORD :'password';
CREATE DATABASE att OWNER att ENCODING 'UTF8' TEMPLATE template0;
SQL
