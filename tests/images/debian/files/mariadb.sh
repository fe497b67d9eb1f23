#!/bin/bash
# What the image of MariaDB does before it runs: at the first start it makes the
# database, for which it has to be told a password.
set -eu
data=/var/lib/mysql
if [ "${1#-}" != "$1" ]; then
	set -- mariadbd "$@"
fi
if [ "$1" != mariadbd ]; then
	exec "$@"
fi
if [ ! -d "$data/mysql" ]; then
	if [ -z "${MARIADB_ROOT_PASSWORD:-}" ] && [ -z "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-}" ]; then
		echo "[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified" >&2
		echo "	You need to specify one of MARIADB_ROOT_PASSWORD and MARIADB_ALLOW_EMPTY_ROOT_PASSWORD" >&2
		exit 1
	fi
	quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/[\\\\']/\\\\&/g")"; }
	echo "[Note] [Entrypoint]: Initializing database files"
	chown mysql:mysql "$data"
	mariadb-install-db --user=mysql --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
	init=/run/mysqld/init.sql
	{
		echo "CREATE USER root@'%' IDENTIFIED BY $(quoted "${MARIADB_ROOT_PASSWORD:-}");"
		echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
		echo "ALTER USER root@localhost IDENTIFIED BY $(quoted "${MARIADB_ROOT_PASSWORD:-}");"
		[ -z "${MARIADB_DATABASE:-}" ] || echo "CREATE DATABASE \`$MARIADB_DATABASE\`;"
		if [ -n "${MARIADB_USER:-}" ]; then
			echo "CREATE USER $(quoted "$MARIADB_USER")@'%' IDENTIFIED BY $(quoted "${MARIADB_PASSWORD:-}");"
			[ -z "${MARIADB_DATABASE:-}" ] || echo "GRANT ALL ON \`$MARIADB_DATABASE\`.* TO $(quoted "$MARIADB_USER")@'%';"
		fi
	} >"$init"
	chown mysql "$init"
	set -- "$@" --init-file="$init"
	echo "[Note] [Entrypoint]: MariaDB init process done. Ready for start up."
fi
exec "$@" --user=mysql --bind-address=0.0.0.0 --skip-name-resolve
