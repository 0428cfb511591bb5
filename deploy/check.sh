#!/bin/sh
# Test a deployment on real servers: Debian's postgresql and redis-server, and a local S3 server (moto_server or minio).
# What is not installed is named and left out. Everything runs in a temporary folder on 127.0.0.1 and is stopped at the end.
#   sh deploy/check.sh [PROJECT]
set -eu
project=${1:-$(pwd)}
python=$project/.venv/bin/python
folder=$(mktemp -d)
pids=""
failures=0
cleanup() {
  (cd "$folder/project" 2>/dev/null && "$python" -m flows.runtime.servers down >/dev/null 2>&1) || true
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  sleep 1
  rm -rf "$folder"
}
trap cleanup EXIT INT TERM
report() { echo "$1: $2"; }
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
await() { # NAME COMMAND...: repeat the command for 60 s
  name=$1; shift; tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 120 ] || { report "$name" "does not answer"; exit 1; }
    sleep 0.5
  done
}
has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

mkdir "$folder/project"
cp -r "$project/flows" "$project/tasks" "$project/prefect.yaml" "$project/dvc.yaml" "$project/params.yaml" "$folder/project/"
cp -r "$project/.dvc" "$folder/project/.dvc" && rm -rf "$folder/project/.dvc/cache" "$folder/project/.dvc/tmp"
cd "$folder/project"
git init --quiet

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1 || true)
if [ -n "$bin" ]; then
  port=$(free_port)
  as=""; [ "$(id -u)" != 0 ] || { as="runuser -u postgres --"; chmod 711 "$folder"; install -d -o postgres "$folder/postgres"; }
  mkdir -p "$folder/postgres"
  $as "$bin/initdb" -D "$folder/postgres/data" -U athanor --auth=trust >/dev/null
  $as "$bin/postgres" -D "$folder/postgres/data" -p "$port" -c listen_addresses=127.0.0.1 -k "$folder/postgres" >"$folder/postgres.log" 2>&1 &
  pids="$pids $!"
  await postgres "$bin/pg_isready" -h 127.0.0.1 -p "$port"
  "$bin/createdb" -h 127.0.0.1 -p "$port" -U athanor prefect
  export PREFECT_SERVER_DATABASE_CONNECTION_URL="postgresql+asyncpg://athanor@127.0.0.1:$port/prefect"
  if has psycopg2; then
    "$bin/createdb" -h 127.0.0.1 -p "$port" -U athanor mlflow
    export MLFLOW_TRACKING_URI="postgresql://athanor@127.0.0.1:$port/mlflow"
  else
    report "MLflow on Postgres" "not tested, because psycopg2 is not installed"
  fi
else
  report Postgres "not tested, because postgresql is not installed"
fi

if command -v redis-server >/dev/null; then
  redis_port=$(free_port)
  redis-server --port "$redis_port" --bind 127.0.0.1 --save "" --dir "$folder" >"$folder/redis.log" 2>&1 &
  pids="$pids $!"
  await redis redis-cli -p "$redis_port" ping
  "$python" - "redis://127.0.0.1:$redis_port/0" <<'EOF'
import sys

import numpy as np
import pyarrow as pa

from tasks.curation.duplicates import minhash, redis_index

first = " ".join(f"word{number}" for number in range(100))
for ids, texts, expected in ((["a"], [first], [None]), (["b", "c"], [first + " more", "another text"], ["a", None])):
    columns = pa.array(texts, pa.large_string()), pa.array(ids, pa.string())
    kept = redis_index.deduplicate(sys.argv[1], *columns, minhash.Params(), np.zeros(len(ids)))
    assert kept.tolist() == expected, kept
EOF
  report "curation.deliveries on Redis" "works"
else
  report Redis "not tested, because redis-server is not installed"
fi

if command -v moto_server >/dev/null && moto_server --help >/dev/null 2>&1 && has boto3 && has dvc_s3; then
  s3_port=$(free_port)
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1
  moto_server -H 127.0.0.1 -p "$s3_port" >"$folder/s3.log" 2>&1 &
  pids="$pids $!"
  export MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:$s3_port" ATHANOR_ARTIFACTS=s3://athanor-mlflow
  await S3 "$python" -c "
import boto3
client = boto3.client('s3', endpoint_url='$MLFLOW_S3_ENDPOINT_URL')
for name in ('athanor-mlflow', 'athanor-dvc'):
    client.create_bucket(Bucket=name)"
  "$python" -m dvc remote add -d storage s3://athanor-dvc --quiet
  "$python" -m dvc remote modify storage endpointurl "$MLFLOW_S3_ENDPOINT_URL" --quiet
  mkdir -p data/raw && echo text >data/raw/a.txt
  "$python" -m dvc add --quiet data/raw/a.txt && "$python" -m dvc push --quiet
  report "dvc push to S3" "works"
else
  report S3 "not tested, because moto_server, boto3 or dvc-s3 is not installed"
fi

export PREFECT_PORT=$(free_port) MLFLOW_PORT=$(free_port)
"$python" -m flows.runtime.servers up || { report "make up" "failed"; exit 1; }
# The tool of Prefect does not know the server of `make up`; the settings of `flows` do.
"$python" - <<'EOF' || { report "deployments" "are missing"; failures=1; }
import flows  # sets the addresses of the servers
from prefect.client.orchestration import get_client

with get_client(sync_client=True) as client:
    names = {deployment.name for deployment in client.read_deployments()}
assert names >= {"nightly", "hourly", "weekly-evaluation", "on-demand"}, names
EOF
if [ -n "$bin" ]; then
  count=$("$bin/psql" -h 127.0.0.1 -p "$port" -U athanor -tA prefect -c "select count(*) from deployment")
  [ "$count" -ge 4 ] && report "Prefect on Postgres" "works, $count deployments" || { report "Prefect on Postgres" "failed"; failures=1; }
fi
"$python" - <<'EOF' || failures=1
import tempfile
from pathlib import Path

import flows  # sets the addresses of the servers
from mlflow import MlflowClient

client = MlflowClient()
run = client.create_run(client.create_experiment("check"))
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "a.txt")
    path.write_text("text")
    client.log_artifact(run.info.run_id, str(path))
assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["a.txt"]
print("MLflow: works, an artifact was stored and listed")
EOF
"$python" -m flows.runtime.servers up >/dev/null && report "second make up" "works"
"$python" -m flows.runtime.servers down >/dev/null && report "make down" "works"
exit $failures
