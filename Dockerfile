# docker build -t att .                       the server
# docker build -t att-test --target test .    its tests: make test-in-docker

FROM python:3.13-slim AS build
WORKDIR /src
# Requirements come first: they change less often than att. Nothing is compiled; only wheels are installed.
COPY requirements-build.lock requirements-serve.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        --requirement requirements-build.lock \
    && python -m venv --without-pip /opt/att \
    && pip --python /opt/att/bin/python install --no-cache-dir --disable-pip-version-check --no-compile \
        --require-hashes --only-binary :all: --requirement requirements-serve.lock
COPY setup.py pyproject.toml README.md LICENSE ./
COPY att att
COPY alembic alembic
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/att/bin/python install --no-cache-dir --disable-pip-version-check --no-compile --no-deps \
        --no-index /wheels/*.whl \
    && python -m compileall -q /opt/att


FROM python:3.13-slim AS test
# make, and programs without which some tests are skipped: a browser, nginx, openssl.
# hadolint ignore=DL3008 # Debian removes old versions: a pinned one could soon not be installed
RUN apt-get update \
    && apt-get install -y --no-install-recommends chromium make nginx openssl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 att
USER 10001:10001
WORKDIR /home/att/src
COPY --chown=att:att requirements.lock requirements-run.lock requirements-build.lock setup.py pyproject.toml Makefile README.md LICENSE ./
COPY --chown=att:att att att
COPY --chown=att:att alembic alembic
COPY --chown=att:att clients/js/package.json clients/js/package-lock.json clients/js/
RUN make .venv/.dev-installed clients/js/node_modules/.package-lock.json
COPY --chown=att:att . .
CMD ["make", "test"]


FROM python:3.13-slim AS serve
LABEL org.opencontainers.image.title="att" \
      org.opencontainers.image.description="Accounts, groups and realtime broadcasts on your own PostgreSQL" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 att && useradd --gid att --uid 10001 --no-create-home --home-dir /nonexistent att
COPY --from=build /opt/att /opt/att
# docs/reference/options.md lists all options. The operator's address is not open to the network unless it is set so.
ENV PATH=/opt/att/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ATT_LISTEN=:8000 \
    ATT_ADMIN_LISTEN=127.0.0.1:9100
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/health/ready', timeout=4)"]
ENTRYPOINT ["att-server"]
