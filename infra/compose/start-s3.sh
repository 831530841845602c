#!/bin/sh
# The store with one key, which comes from the environment and is written into memory only.
set -eu
umask 077
cat > /run/s3.json <<KEYS
{"identities": [{"name": "dinov2", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
KEYS
exec weed server -dir=/data -s3 -s3.config=/run/s3.json -volume.max=0
