# The light image: web server, daemon, code server, tracking server. No torch.
#   docker build --file infra/docker/orchestrator.Dockerfile --tag dinov2-orchestrator .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /app
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN python -m venv /opt/venv
RUN /opt/venv/bin/python -m pip install --no-cache-dir uv==0.13.9
COPY infra/docker/orchestrator.lock ./infra/docker/orchestrator.lock
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --requirement infra/docker/orchestrator.lock
COPY pyproject.toml README.md LICENSE params.yaml workspace.yaml ./
COPY dinov2_core ./dinov2_core
COPY assets ./assets
COPY pipelines ./pipelines
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps .
# An image whose definitions do not load is not made.
RUN /opt/venv/bin/python -c "import pipelines.definitions"

FROM python:3.11.14-slim-bookworm
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 DAGSTER_HOME=/opt/dagster
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY infra/compose/dagster.yaml /opt/dagster/dagster.yaml
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 3000 4000 5000
CMD ["dagster", "code-server", "start", "--host", "0.0.0.0", "--port", "4000", "--module-name", "pipelines.definitions"]
