#!/bin/sh
# Create att's database, its owner, who migrates it, and the role of the servers, once. None is a superuser: att needs
# none. `att-server migrate --grant-to att_app` gives the servers' role its rights.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set owner_password="$ATT_OWNER_PASSWORD" --set password="$ATT_DB_PASSWORD" \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE att LOGIN PASSWORD :'owner_password';
CREATE ROLE att_app LOGIN PASSWORD :'password';
CREATE DATABASE att OWNER att ENCODING 'UTF8' TEMPLATE template0;
SQL
