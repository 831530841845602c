# The image that computes: runs, Ray nodes, trainings. CUDA comes with the wheels; the driver is the node's.
#   docker build --file infra/docker/worker.Dockerfile --tag dinov2-worker .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /app
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN python -m venv /opt/venv
RUN /opt/venv/bin/python -m pip install --no-cache-dir uv==0.13.9
COPY infra/docker/worker.lock ./infra/docker/worker.lock
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --requirement infra/docker/worker.lock
COPY pyproject.toml README.md LICENSE params.yaml workspace.yaml ./
COPY dinov2_core ./dinov2_core
COPY assets ./assets
COPY pipelines ./pipelines
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps .
RUN /opt/venv/bin/python -c "import pipelines.definitions, torch, torchvision, faiss, ray"

FROM python:3.11.14-slim-bookworm
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 DAGSTER_HOME=/opt/dagster NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY infra/compose/dagster.yaml /opt/dagster/dagster.yaml
USER 10001:10001
CMD ["dagster", "code-server", "start", "--host", "0.0.0.0", "--port", "4000", "--module-name", "pipelines.definitions"]
