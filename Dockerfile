# The gateway's image. Build:  docker build --tag hms-gateway .
# Another base (an approved one, or one without a registry):  docker build --build-arg BASE=NAME .   It needs Python >= 3.11 and glibc.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# pip and the build backend live in an environment of their own, which the image does not contain.
RUN ["python3", "-m", "venv", "/opt/build"]
COPY requirements-build.lock ./
RUN ["/opt/build/bin/pip", "install", "--require-hashes", "--only-binary=:all:", "--requirement=requirements-build.lock"]

# Dependencies change seldom: this layer is made again only when the lock changes.
RUN ["python3", "-m", "venv", "--without-pip", "/opt/hms-gateway"]
COPY requirements.lock ./
RUN ["/opt/build/bin/pip", "--python=/opt/hms-gateway/bin/python", "install", \
     "--require-hashes", "--only-binary=:all:", "--requirement=requirements.lock"]

COPY pyproject.toml README.md ./
COPY hms_etl hms_etl
COPY discovery discovery
COPY gateway gateway
RUN ["/opt/build/bin/pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=/wheels", "."]
RUN ["/opt/build/bin/pip", "--python=/opt/hms-gateway/bin/python", "install", \
     "--no-deps", "--no-index", "--find-links=/wheels", "hms-gateway"]
# A volume mounted here takes over its owner, which is the user below.
RUN ["mkdir", "-p", "/state/keys"]

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="HMS Gateway" \
      org.opencontainers.image.description="A Redis-backed distributed API gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/hms-gateway /opt/hms-gateway
# The one place that may be written besides /tmp. Both may be memory: nothing in them has to survive.
COPY --from=build --chown=10001:10001 /state /var/lib/hms-gateway

# Byte code was written by the build; at run time the root file system may be read-only.
ENV PATH=/opt/hms-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/hms-gateway
# Numeric, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080 9080

# /livez asks whether the process answers, never whether Redis or Consul do: restarting the gateway would cure neither.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9080/livez', timeout=2)"]

ENTRYPOINT ["gateway"]
CMD ["run", "-c", "/etc/hms-gateway/gateway.yaml", "--host", "0.0.0.0"]
