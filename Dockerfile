# One image for every service that runs our code: Ray nodes, the MLflow server, the one-shot run.
# The versions are those that the tests ran with; tests/deploy holds them to that.
FROM python:3.11-slim-bookworm

ENV DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    OMP_NUM_THREADS=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0

# The large libraries change seldom: a layer of their own.
RUN pip install \
    mlflow==3.17.2 \
    psycopg2-binary==2.9.13 \
    "ray[train,tune]==2.60.0" \
    torch==2.15.0 \
    torchvision==0.29.2

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY vaepipe vaepipe
COPY plugins plugins
COPY pipelines pipelines

# Plugins to install beside it, as pip names them: --build-arg PLUGINS="./plugins/vaepipe-student-t"
ARG PLUGINS=""
RUN pip install ".[postgres]" ${PLUGINS}

# Volumes take the owner of the folder they are first mounted over.
RUN useradd --uid 1000 --create-home vaepipe \
    && mkdir /workspace /data /mlartifacts \
    && chown vaepipe:vaepipe /app /workspace /data /mlartifacts
USER vaepipe

CMD ["vaepipe", "--help"]
