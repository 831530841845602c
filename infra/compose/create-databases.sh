#!/bin/sh
# Run once by PostgreSQL, on an empty volume: Dagster and MLflow each have a database.
set -eu
createdb --username "$POSTGRES_USER" dagster
createdb --username "$POSTGRES_USER" mlflow
